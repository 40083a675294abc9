"""Interrupted anywhere, a run goes on anywhere and ends with the same bits.

QUIP_THOROUGH=1 tries every file operation and 60 random instants instead of a few.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

import cli

MODEL = cli.model("llama-nano")
SETTINGS = ("--bits", 2, "--samples", 5, "--threads", 1, *cli.QUICK)
STOPPED = 75
RANDOM = random.Random(20)


def quantize(out, *options, check=True, **how):
    return cli.run(
        *("quantize", "--model", MODEL, "--tokens", cli.CALIBRATION, "--out", out, *SETTINGS),
        *("--progress", "none", *options),
        check=check,
        **how,
    )


def start(out, *options, ranks=2, fault=None):
    """Starts a job in a process group of its own."""
    command = ["mpirun", "-n", ranks, cli.QUIP, "quantize", "--model", MODEL, "--tokens"]
    command += [cli.CALIBRATION, "--out", out, *SETTINGS, "--progress", "none", *options]
    environment = os.environ | cli.ENVIRONMENT | ({"QUIP_FAULT": fault} if fault else {})
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ranks_of(job):
    """Process numbers of the launcher's children."""
    found = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digest of a run that nobody disturbed, and how long it takes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    begin = time.monotonic()
    quantize(out, ranks=2)
    seconds = time.monotonic() - begin
    return cli.inspect(out)["digest"], seconds


def assert_ends_as_if_undisturbed(out, digest):
    quantize(out, "--resume", ranks=RANDOM.choice([1, 2, 3, 4]))
    assert cli.inspect(out, "--verify")["digest"] == digest
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert not {name for name in left if name.startswith(".")}
    assert not (out / "states").exists()


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    """The file operations of rank 0 in a whole run."""
    folder = tmp_path_factory.mktemp("trace")
    quantize(folder / "out", environment={"QUIP_FAULT": f"trace:{folder / 'trace'}"})
    return (folder / "trace").read_text().splitlines()


def some(numbers, count):
    numbers = list(numbers)
    return numbers if cli.THOROUGH else sorted(RANDOM.sample(numbers, min(count, len(numbers))))


def test_killed_before_any_file_operation(operations, undisturbed, tmp_path):
    assert len(operations) > 40  # blocks, states, manifests, each several operations
    assert {line.split()[1] for line in operations} >= {
        "create",
        "write",
        "sync",
        "rename",
        "remove",
    }
    for number in some(range(1, len(operations) + 1), 5):
        out = tmp_path / f"{number}"
        ranks = RANDOM.choice([1, 2])
        killed = quantize(
            out, check=False, ranks=ranks, environment={"QUIP_FAULT": f"kill:{number}"}
        )
        # With two ranks each does fewer operations, perhaps too few to be killed.
        assert killed.returncode != 0 or ranks == 2, operations[number - 1]
        assert_ends_as_if_undisturbed(out, undisturbed[0])
        shutil.rmtree(out)


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_failing_file_operations(error, operations, undisturbed, tmp_path):
    text = {"ENOSPC": "No space left on device", "EROFS": "Read-only file system"}[error]
    for number in some(range(1, len(operations) + 1), 2):
        out = tmp_path / f"{number}"
        failed = quantize(out, check=False, environment={"QUIP_FAULT": f"{error}:{number}"})
        assert failed.returncode == 1, operations[number - 1]
        lines = [line for line in failed.stderr.splitlines() if line.startswith("quip: error:")]
        assert len(lines) == 1 and text in lines[0], failed.stderr
        assert_ends_as_if_undisturbed(out, undisturbed[0])
        shutil.rmtree(out)


def test_killed_at_random_instants(undisturbed, tmp_path):
    digest, seconds = undisturbed
    for number in range(60 if cli.THOROUGH else 3):
        out = tmp_path / f"{number}"
        job = start(out, ranks=3)
        time.sleep(RANDOM.uniform(0.1, seconds))
        victims = {0: ranks_of(job)[:1], 1: ranks_of(job), 2: [job.pid]}[number % 3]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it may have finished
                os.kill(pid, signal.SIGKILL)
        job.communicate(timeout=60)
        assert_ends_as_if_undisturbed(out, digest)
        shutil.rmtree(out)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_block_in_hand(number, undisturbed, tmp_path):
    out = tmp_path / "out"
    job = start(out)
    while not (out / "blocks" / "block_00000.h5").exists():
        assert job.poll() is None
        time.sleep(0.005)
    os.kill(ranks_of(job)[-1], number)  # one rank is enough
    output, _ = job.communicate(timeout=60)
    assert job.returncode == STOPPED, output
    assert "go on with --resume" in output.decode()
    assert not json.loads((out / "manifest.json").read_text())["complete"]
    assert_ends_as_if_undisturbed(out, undisturbed[0])


def test_a_second_signal_ends_the_run_at_once(undisturbed, tmp_path):
    out = tmp_path / "out"
    job = start(out)
    while not (out / "manifest.json").exists():
        time.sleep(0.005)
    rank = ranks_of(job)[0]
    os.kill(rank, signal.SIGUSR1)
    os.kill(rank, signal.SIGTERM)  # the same signal twice may arrive once
    output, _ = job.communicate(timeout=30)
    assert job.returncode == STOPPED, output
    assert_ends_as_if_undisturbed(out, undisturbed[0])


@pytest.mark.parametrize("keep", ["none", "last", "all"])
def test_ranges_of_blocks(keep, undisturbed, tmp_path):
    out = tmp_path / "out"
    states = {
        "none": [],
        "last": ["states_00002.h5"],
        "all": ["states_00001.h5", "states_00002.h5"],
    }
    quantize(out, "--blocks", "0:2", "--keep-states", keep, ranks=2)
    assert [path.name for path in sorted(out.glob("states/*"))] == states[keep]
    refused = quantize(out, "--resume", "--blocks", "3:4", check=False)
    assert refused.returncode == 1 and "block 2 is not quantized yet" in refused.stderr
    quantize(out, "--resume", "--blocks", "2:4", "--keep-states", keep, ranks=3)
    assert cli.inspect(out, "--verify")["digest"] == undisturbed[0]
    kept = ["states_00001.h5", "states_00002.h5", "states_00003.h5"] if keep == "all" else []
    assert [path.name for path in sorted(out.glob("states/*"))] == kept


def test_states_are_what_any_number_of_ranks_reads(undisturbed, tmp_path):
    files = []
    for ranks in (1, 3):
        out = tmp_path / f"{ranks}"
        quantize(out, "--blocks", "0:1", ranks=ranks)
        with h5py.File(out / "states" / "states_00001.h5") as file:
            files.append(np.array(file["hidden_states"]))
    assert files[0].shape == (5, 256, 128) and files[0].dtype == np.float32
    assert np.isfinite(files[0]).all() and np.array_equal(*files)


def test_damaged_states_are_noticed_and_computed_again(undisturbed, tmp_path):
    out = tmp_path / "out"
    quantize(out, "--blocks", "0:2")
    flip(out / "states" / "states_00002.h5", 4000)
    said = quantize(out, "--resume", ranks=2).stderr
    assert "states_00002.h5: the hidden states do not match their digest" in said
    assert cli.inspect(out, "--verify")["digest"] == undisturbed[0]


def test_resume_refuses_other_settings_and_shows_them(tmp_path):
    out = tmp_path / "out"
    quantize(out, "--blocks", "0:1")
    other = tmp_path / "model"
    shutil.copytree(MODEL, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-4096:] = bytes(4096)  # same names and shapes
    (other / "model.safetensors").write_bytes(weights)
    tokens = tmp_path / "tokens.h5"
    with h5py.File(cli.CALIBRATION) as source, h5py.File(tokens, "w") as file:
        file["input_ids"] = source["input_ids"][5:]
    for options, words in {
        ("--bits", 3): "options.bits: 2 there, 3 now",
        ("--seed", 9): "options.seed: 0 there, 9 now",
        ("--model", other): "inputs.checkpoint_fingerprint",
        ("--tokens", tokens): "inputs.tokens_digest",
    }.items():
        given = dict(zip(("--model", "--tokens"), (MODEL, cli.CALIBRATION), strict=True))
        given |= dict([options])
        command = [str(word) for pair in given.items() for word in pair]
        settings = () if "--bits" in given else ("--bits", 2)
        refused = cli.run(
            *("quantize", *command, *settings, "--samples", 5, "--out", out, "--resume"),
            check=False,
            ranks=2,
        )
        assert refused.returncode == 1
        assert refused.stderr.count("quip: error:") == 1 and words in refused.stderr


def test_without_resume_an_earlier_run_is_left_alone(tmp_path):
    out = tmp_path / "out"
    quantize(out, "--blocks", "0:1")
    before = (out / "manifest.json").read_bytes()
    refused = quantize(out, check=False)
    assert refused.returncode == 1 and "--resume" in refused.stderr
    assert (out / "manifest.json").read_bytes() == before


def test_a_complete_run_has_nothing_left_to_do(undisturbed, tmp_path):
    out = tmp_path / "out"
    quantize(out)
    before = (out / "manifest.json").read_bytes()
    assert "nothing to do" in quantize(out, "--resume", ranks=2).stdout
    assert (out / "manifest.json").read_bytes() == before


def test_two_runs_cannot_share_a_directory(undisturbed, tmp_path):
    out = tmp_path / "out"
    job = start(out, ranks=1)
    while not (out / "manifest.json").exists():
        time.sleep(0.005)
    os.kill(ranks_of(job)[0], signal.SIGSTOP)
    refused = quantize(out, "--resume", check=False)
    assert refused.returncode == 1
    assert f"another run is writing there (process {ranks_of(job)[0]} on" in refused.stderr
    os.kill(ranks_of(job)[0], signal.SIGKILL)
    job.communicate(timeout=30)
    assert_ends_as_if_undisturbed(out, undisturbed[0])


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position % len(content)] ^= 0x10
    file.write_bytes(content)


@pytest.mark.parametrize(
    "victim",
    [
        *("blocks/block_00001.h5", "states/states_00002.h5", "rest.h5"),
        *("model.h5", "report.json", "manifest.json"),
    ],
)
def test_repair_makes_only_what_is_damaged(victim, undisturbed, tmp_path):
    out = tmp_path / "out"
    quantize(out, "--keep-states", "all", ranks=2)
    whole = {path.name: path.stat().st_ino for path in out.glob("blocks/*")}
    if victim == "manifest.json":  # still JSON; what is not is the next test's
        text = (out / victim).read_text()
        (out / victim).write_text(text.replace('"damp": 0.01', '"damp": 0.02'))
    else:
        flip(out / victim, RANDOM.randrange(10**9))
    found = cli.run("inspect", out, "--verify", check=False)
    assert found.returncode == 1
    quantize(out, "--repair", "--keep-states", "all", ranks=3)
    assert cli.inspect(out, "--verify")["digest"] == undisturbed[0]
    made = {path.name for path in out.glob("blocks/*") if path.stat().st_ino != whole[path.name]}
    assert made <= ({"block_00001.h5"} if "block" in victim else set())
    assert ("block" in victim) == bool(made)


def test_repair_without_a_readable_manifest_starts_over(undisturbed, tmp_path):
    out = tmp_path / "out"
    quantize(out)
    (out / "manifest.json").write_text("{")
    quantize(out, "--repair", ranks=2)
    assert cli.inspect(out, "--verify")["digest"] == undisturbed[0]
