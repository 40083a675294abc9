"""quip plan against the runs that it predicts: bytes exactly, memory, time; and its batch file."""

import functools
import itertools
import json
import math
import os
import re
import subprocess

import pytest

import cli

MODEL = "llama-micro"
SAMPLES, LENGTH = 128, 256
CONFIGS = cli.DATA / "configs"
CORES = os.cpu_count()
RANKS = (1, 2, 4)
ATTEMPTS = 4  # the machine may be busy with something else


def threads_of(ranks):
    return max(1, CORES // ranks)


def plan(model, *options, **how):
    return cli.run("plan", "--model", model, *options, **how)


def predict(out, ranks, *options, model=MODEL, samples=SAMPLES, length=LENGTH):
    shape = ("--ranks-per-node", ranks, "--threads", threads_of(ranks))
    plan(
        cli.model(model),
        *("--samples", samples, "--length", length, "--json", out, *shape, *options),
    )
    return json.loads(out.read_text())


def quantize(out, ranks, *options, model=MODEL):
    cli.quantize(
        cli.model(model), out, *options, "--threads", threads_of(ranks), ranks=ranks, threads=1
    )
    return json.loads((out / "report.json").read_text())


def search_bytes(report):
    """What a rank sends beyond a search for rho that ends in its first round: a further round sums
    three losses of every sampled row, and a vote."""
    ranks = report["ranks"]
    total = 0
    for layer in report["layers"]:
        rows = layer["rows"]
        sampled = min(rows, max(32, min(rows // 8, 128)))
        once = sum(2 * size * (ranks - 1) // ranks for size in (8 * 3 * sampled, 4))
        total += (layer["rho_rounds"] - 1) * once if layer["rho_rounds"] else 0
    return total


def sent(report):
    """By rank and phase."""
    return [
        {name: phase["bytes_sent"] for name, phase in rank["phases"].items()}
        for rank in report["rank_reports"]
    ]


# Wide layers: the search would bring all panels again, so rho is given.
JOBS = {
    "as it comes": (MODEL, 24, ()),
    "given rho": (MODEL, 9, ("--rho", "1.6", "--bits", 4)),
    "groups": ("llama-nano", 5, ("--processing", "baseline", "--group-size", 40, "--bits", 3)),
    "biases": ("opt-micro", 5, ("--rho", "2")),
    "optq": ("llama-nano", 3, ("--method", "optq", "--act-order", "--processing", "baseline")),
    "greedy": ("llama-nano", 3, ("--method", "ldlq-rg", "--rho", "2", "--passes", 2)),
    "some layers": ("llama-nano", 6, ("--skip", "up_proj|k_proj", "--keep-states", "none")),
    "sequential": ("llama-nano", 6, ("--true-sequential", "--override", "down_proj:bits=4")),
    "stream": ("llama-nano", 6, ("--target", "stream", "--rho", "2")),
    "wide stream": ("llama-nano", 5, ("--target", "stream", "--rho", "2", "--wide", 300)),
    "wide layers": (MODEL, 8, ("--wide", 600, "--rho", "1.6")),
    "trellis": ("llama-nano", 4, ("--codebook", "trellis")),
    "wide trellis": ("llama-nano", 4, ("--codebook", "trellis", "--wide", 300, "--bits", 3)),
    "padded": ("llama-nano", 4, ("--transform", "hadamard-128", "--rho", "2", "--bits", 3)),
}


# By day each job on two ranks or on four, in turns; at night on both.
TURNS = zip(JOBS, itertools.cycle((4, 2)), strict=False)
SPREAD = itertools.product(JOBS, (2, 4)) if cli.THOROUGH else TURNS


@pytest.mark.parametrize(("job", "ranks"), [("as it comes", 1), *SPREAD])
def test_bytes_sent_are_predicted_exactly(job, ranks, tmp_path):
    """Rank by rank and phase by phase."""
    model, samples, options = JOBS[job]
    planned = predict(tmp_path / "plan.json", ranks, *options, model=model, samples=samples)
    report = quantize(tmp_path / "out", ranks, "--samples", samples, *options, model=model)
    expected = sent(planned)
    for rank in expected:
        rank["round"] = rank.get("round", 0) + search_bytes(report)
    counted = sent(report)
    for rank, phases in enumerate(counted):
        assert {k: v for k, v in phases.items() if v} == {
            k: v for k, v in expected[rank].items() if v
        }, rank
    if ranks > 1:
        assert sum(counted[0].values()) > 0


GIVEN_RHO = ("--rho", "1.6")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """whole_run(ranks) → report of a run on all samples; equal calls share one."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda ranks: quantize(folder / f"{ranks}", ranks, *GIVEN_RHO))


@pytest.mark.parametrize("ranks", (1, 4))
def test_flops_and_files_are_predicted(ranks, whole_run, tmp_path):
    planned = predict(tmp_path / "plan.json", ranks, *GIVEN_RHO)
    report = whole_run(ranks)
    for name, phase in report["phases"].items():
        there = planned["phases"].get(name, {})
        assert there["flops"] == pytest.approx(phase["flops"], rel=1e-9), name
        for key in ("bytes_read", "bytes_written"):
            assert there[key] == pytest.approx(phase[key], rel=0.02, abs=150_000), (name, key)


def calibrate_and_plan(tmp_path, ranks, *options):
    """A calibration plans with what it has measured, on the ranks that it ran on."""
    out = tmp_path / f"calibrated{ranks}.json"
    cli.run(
        "plan", "--calibrate", "--model", cli.model(MODEL), "--samples", SAMPLES,
        "--length", LENGTH, "--threads", threads_of(ranks), "--scratch", tmp_path,
        "--rates", tmp_path / "rates.json", "--json", out, *options, ranks=ranks, threads=1,
    )  # fmt: skip
    assert json.loads((tmp_path / "rates.json").read_text())["ranks"] == ranks
    return json.loads(out.read_text())


@pytest.mark.parametrize("ranks", RANKS if cli.THOROUGH else (1, 4))
def test_memory_is_predicted(ranks, whole_run, tmp_path):
    assert_memory_is_predicted(calibrate_and_plan(tmp_path, ranks, *GIVEN_RHO), whole_run(ranks))


@pytest.mark.parametrize("ranks", (1, 3) if cli.THOROUGH else (2,))
def test_memory_of_two_streams_is_predicted(ranks, tmp_path):
    options = (*GIVEN_RHO, "--target", "stream")
    planned = calibrate_and_plan(tmp_path, ranks, *options)
    assert_memory_is_predicted(planned, quantize(tmp_path / "out", ranks, *options))


def assert_memory_is_predicted(planned, report):
    peaks = [rank["memory"]["bytes"] for rank in planned["rank_reports"]]
    for expected, peak in zip(peaks, report["peak_rss_bytes"], strict=True):
        assert expected == pytest.approx(peak, rel=0.10)


@pytest.mark.skipif(not cli.THOROUGH, reason="needs a machine to itself: at night")
@pytest.mark.parametrize("ranks", RANKS)
def test_time_is_predicted(ranks, tmp_path):
    """Made before the run. Other work on the machine slows both down, hence the fastest of some."""
    predicted, measured = math.inf, math.inf
    for attempt in range(ATTEMPTS):
        planned = calibrate_and_plan(tmp_path, ranks)
        report = quantize(tmp_path / f"out{attempt}", ranks)
        predicted = min(predicted, planned["seconds"])
        measured = min(measured, report["seconds"])
        if abs(predicted - measured) <= 0.3 * measured:
            return
    assert predicted == pytest.approx(measured, rel=0.30)


def test_rates_file_gives_the_same_plan(tmp_path):
    """What --calibrate plans on the spot is what its file plans later."""
    on_the_spot = calibrate_and_plan(tmp_path, 2)
    again = predict(tmp_path / "plan.json", 2, "--rates", tmp_path / "rates.json")
    assert again["phases"] == on_the_spot["phases"]
    assert again["seconds"] == on_the_spot["seconds"]


@pytest.mark.parametrize(
    ("name", "billions"), [("opt-175b", "174.60"), ("llama-3.1-405b", "405.85")]
)
def test_large_models_need_no_weights(name, billions, tmp_path):
    cluster = ("--nodes", 8, "--cores-per-node", 64, "--memory", 2048)
    shown = plan(CONFIGS / f"{name}.json", *cluster, "--json", tmp_path / "plan.json").stdout
    assert f"{billions} billion parameters" in shown
    # Ranks per node that share out 64 cores; one of them is best.
    lines = [line.split() for line in shown.splitlines() if re.match(r"\s+8 +\d+ +\d+ ", line)]
    assert [int(line[1]) for line in lines] == [1, 2, 4, 8, 16, 32, 64]
    assert sum("best" in line for line in lines) == 1
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["problems"] == []
    assert planned["phases"]["hessian"]["bytes_sent"] > 0
    assert "seconds" not in planned


def test_lower_bound_stands_beside_the_volume(tmp_path):
    for nodes in (2, 5, 64):
        plan(
            CONFIGS / "llama-3.1-405b.json",
            *("--nodes", nodes, "--ranks-per-node", 1, "--json", tmp_path / "plan.json"),
        )
        phases = json.loads((tmp_path / "plan.json").read_text())["phases"]
        for name in ("load", "hessian", "round"):
            phase = phases[name]
            assert 0.999 <= phase["bytes_sent"] / phase["bound_bytes_sent"] < 2, (name, nodes)


def test_batch_file(tmp_path):
    script = tmp_path / "job.sbatch"
    options = ("--bits", 3, "--true-sequential", "--override", "q_proj:bits=4")
    plan(
        cli.model(MODEL),
        *("--nodes", 2, "--ranks-per-node", 2, "--cores-per-node", 8, "--samples", 64),
        *("--length", 256, "--emit", script, "--tokens", "my tokens.h5", "--out", "packed"),
        *("--home", cli.ROOT, *options),
    )
    text = script.read_text()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    for line in ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=4", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    # Run with a launcher of our own: what would quip get?
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    for name, body in (("srun", "exit 1"), ("mpirun", 'shift 4; exec "$@"')):
        (stand_in / name).write_text(f"#!/bin/sh\n{body}\n")
    (stand_in / "quip").write_text('#!/bin/sh\nfor a; do echo "[$a]"; done\n')
    for tool in stand_in.iterdir():
        tool.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{stand_in}:{os.environ['PATH']}",
        "QUIP": "quip",  # not the one that was built here
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_NTASKS": "4",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_ID": "1",
    }
    ran = subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, check=False
    )
    got = re.findall(r"\[(.*)\]", ran.stdout)
    assert got[:4] == ["quantize", "--progress", "lines", "--resume"], ran.stderr
    given = ["--model", cli.model(MODEL), "--tokens", "my tokens.h5", "--out", "packed"]
    assert got[4:10] == list(map(str, given))
    expected = cli.with_quick(("plan", "--samples", "64", *options))[1:]
    assert sorted(got[10:]) == sorted(map(str, expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nodes", 0), "--nodes 0: must be positive"),
        (("--memory", -1), "--memory -1: must be positive"),
        (("--gpus-per-node", -1), "--gpus-per-node -1: must not be negative"),
        (("--emit", "x.sbatch"), "--emit: the batch file also needs --tokens FILE and --out DIR"),
        (("--calibrate", "--nodes", 2), "--calibrate measures the layout it runs on"),
        (("--rates", "/nowhere.json"), "--rates /nowhere.json: cannot open"),
        (("--length", 4096), "--length 4096: the model takes at most 256 tokens"),
        (("--skip", "."), "leaves nothing to quantize"),
        (("--memory", 0.05), "the plan does not fit: a node needs"),
    ],
)
def test_mistakes_are_named(options, message):
    result = plan(cli.model(MODEL), *options, check=False)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("quip: error:")]
    assert len(lines) == 1 and message in lines[0], result.stderr


def test_missing_config_is_named(tmp_path):
    result = plan(tmp_path, check=False)
    assert result.returncode == 1
    assert f"{tmp_path}: config.json is missing" in result.stderr
