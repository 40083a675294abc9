"""jobs/sweep.sh: the rows it writes, and that it goes on where it was stopped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

import cli

SAMPLES = ("--samples", 4)
DEFAULTS = ("--codebook", "auto", "--target", "auto")
NANO = cli.model("llama-nano")
COLUMNS = [
    "model", "method", "processing", "bits", "seed", "settings",
    "mean_relative_proxy_loss", "perplexity", "divergence", "agreement", "seconds", "digest",
]  # fmt: skip


ENVIRONMENT = os.environ | cli.ENVIRONMENT | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def command(few):
    def words(out, *options, model=NANO, extra=SAMPLES):
        script = ("bash", cli.ROOT / "jobs" / "sweep.sh", "--quip", cli.QUIP, "--model", model)
        inputs = ("--tokens", few, "--eval", few, "--out", out)
        return [str(word) for word in (*script, *inputs, *options, "--", *extra)]

    return words


@pytest.fixture(scope="module")
def sweep(command):
    def run(out, *options, check=True, **what):
        result = subprocess.run(
            command(out, *options, **what),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run


def rows_of(out):
    with (out / "sweep.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def key(row):
    return " ".join(row[name] for name in COLUMNS[1:6])


@pytest.fixture(scope="module")
def finished(sweep, tmp_path_factory):
    """Five rows in a folder that only careful quoting survives."""
    out = tmp_path_factory.mktemp("sweep") / 'it\'s a, "sweep" $HOME'
    grid = ("--methods", "nearest ldlq", "--bits", 2, "--ranks", 2)
    sweep(out, *grid, "--processing", "baseline", "--settings", "paper")
    sweep(out, "--methods", "ldlq", "--bits", 2, "--processing", "incoherence", "--seeds", "1 2",
          "--settings", "default")  # fmt: skip
    return out


def test_one_row_for_every_combination(finished):
    assert [key(row) for row in rows_of(finished)] == [
        "unquantized - - - -",
        "nearest baseline 2 1 paper",
        "ldlq baseline 2 1 paper",
        "ldlq incoherence 2 1 default",
        "ldlq incoherence 2 2 default",
    ]
    assert {row["model"] for row in rows_of(finished)} == {"llama-nano"}
    assert list((finished / "runs").iterdir()) == []  # packed models are large


def test_rows_say_what_the_program_says(few, finished, quantized):
    rows = {key(row): row for row in rows_of(finished)}
    unquantized = cli.evaluate(NANO, few)["perplexity"]
    assert float(rows["unquantized - - - -"]["perplexity"]) == unquantized
    options = ("--method", "ldlq", "--bits", 2, "--seed", 2, *DEFAULTS)
    packed = quantized("llama-nano", *options, *SAMPLES)
    row = rows["ldlq incoherence 2 2 default"]
    assert row["digest"] == cli.inspect(packed)["digest"]
    assert float(row["perplexity"]) == pytest.approx(cli.evaluate(NANO, few, packed)["perplexity"])
    assert 0 < float(row["divergence"]) < 1 and 0 < float(row["agreement"]) < 1
    assert (
        rows["unquantized - - - -"]["divergence"],
        rows["unquantized - - - -"]["agreement"],
    ) == ("0", "1")
    assert float(row["mean_relative_proxy_loss"]) == pytest.approx(cli.mean_relative_proxy(packed))
    report = json.loads(
        (finished / "reports" / "llama-nano-ldlq-incoherence-2-2-default.json").read_text()
    )
    assert float(row["seconds"]) == report["seconds"] > 0


def test_method_may_carry_options(sweep, quantized, tmp_path):
    grid = ("--bits", 2, "--seeds", 7, "--settings", "default", "--processing", "incoherence")
    sweep(tmp_path, "--methods", "ldlq:passes=2:damp=0.02", *grid)
    row = rows_of(tmp_path)[1]
    assert key(row) == "ldlq:passes=2:damp=0.02 incoherence 2 7 default"
    options = (
        "--method",
        "ldlq",
        "--passes",
        2,
        "--damp",
        0.02,
        "--bits",
        2,
        "--seed",
        7,
        *DEFAULTS,
    )
    packed = quantized("llama-nano", *options, *SAMPLES)
    assert row["digest"] == cli.inspect(packed)["digest"]
    assert [file.name for file in (tmp_path / "reports").iterdir()] == [
        "llama-nano-ldlq-passes-2-damp-0.02-incoherence-2-7-default.json"
    ]


def test_finished_rows_are_not_run_again(sweep, finished):
    before = (finished / "sweep.csv").read_bytes()
    result = sweep(finished, "--methods", "nearest ldlq", "--bits", 2, "--processing", "baseline",
                   "--settings", "paper")  # fmt: skip
    assert (finished / "sweep.csv").read_bytes() == before
    assert "[" not in result.stdout  # no run was announced


def test_interrupted_row_is_cleaned_up(sweep, finished, tmp_path):
    """As after a kill while the last line was written, with that run's folder still there."""
    out = tmp_path / "stopped"
    shutil.copytree(finished, out)
    text = (out / "sweep.csv").read_text()
    (out / "sweep.csv").write_text(text[:-20])
    run = out / "runs" / "llama-nano-ldlq-incoherence-2-2-default"
    run.mkdir()
    (run / "manifest.json").write_text("{")
    result = sweep(out, "--methods", "ldlq", "--bits", 2, "--processing", "incoherence",
                   "--seeds", "1 2", "--settings", "default")  # fmt: skip
    assert result.stdout.count("[") == 1
    mended, before = rows_of(out), rows_of(finished)
    for row in [*mended, *before]:
        del row["seconds"]
    assert mended == before
    assert not run.exists()


def test_killed_sweep_goes_on(command, sweep, finished, tmp_path):
    options = ("--methods", "nearest ldlq", "--bits", 2, "--processing", "baseline",
               "--settings", "paper")  # fmt: skip
    process = subprocess.Popen(
        command(tmp_path, *options),
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not list(tmp_path.glob("runs/*ldlq*/manifest.json")):
        time.sleep(0.002)
    assert process.poll() is None, "the sweep ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [key(row) for row in rows_of(tmp_path)][1:] == ["nearest baseline 2 1 paper"]
    while (result := sweep(tmp_path, *options, check=False)).returncode != 0:
        assert "another sweep" in result.stderr  # its orphans are still ending
        time.sleep(0.1)
    for mended, whole in zip(rows_of(tmp_path), rows_of(finished)[:3], strict=True):
        assert {**mended, "seconds": ""} == {**whole, "seconds": ""}


def test_other_inputs_are_refused(sweep, finished):
    before = (finished / "sweep.csv").read_bytes()
    result = sweep(finished, "--bits", 3, extra=("--samples", 5), check=False)
    assert result.returncode == 2
    assert "other inputs" in result.stderr and "'5'" in result.stderr
    assert (finished / "sweep.csv").read_bytes() == before


def test_failing_run_does_not_stop_the_others(sweep, tmp_path):
    model = tmp_path / "a, model"  # its name is a column
    shutil.copytree(NANO, model)
    options = ("--processing", "baseline", "--bits", 4, "--settings", "default", "--keep")
    result = sweep(tmp_path, "--methods", "nonsense nearest", *options, model=model, check=False)
    assert result.returncode == 1
    assert "1 of 2 runs failed" in result.stderr and "nonsense" in result.stdout
    assert [key(row) for row in rows_of(tmp_path)] == [
        "unquantized - - - -",
        "nearest baseline 4 1 default",
    ]
    assert {row["model"] for row in rows_of(tmp_path)} == {"a, model"}
    kept = tmp_path / "runs" / "a, model-nearest-baseline-4-1-default"
    assert cli.inspect(kept)["digest"] == rows_of(tmp_path)[1]["digest"]


def test_rows_alone_wait_to_be_merged(sweep, tmp_path):
    grid = ("--methods", "nearest", "--bits", "4 2")
    grid += ("--processing", "baseline", "--settings", "paper")
    assert sweep(tmp_path, *grid, "--missing").stdout == "0,1,2\n"
    for row in (2, 0):
        sweep(tmp_path, *grid, "--only", row)
    assert not (tmp_path / "sweep.csv").exists()
    assert sweep(tmp_path, *grid, "--missing").stdout == "1\n"
    assert sweep(tmp_path, *grid, "--only", 2).stdout == ""  # it is there
    early = sweep(tmp_path, *grid, "--merge", check=False)
    assert early.returncode == 1 and "of rows 0 to 2 these are missing: 1;" in early.stderr
    whole = sweep(tmp_path, *grid)  # runs what is left, and knows of the others
    assert whole.stdout.count("[") == 1 and "nearest baseline 4 1 paper" in whole.stdout
    assert [key(row) for row in rows_of(tmp_path)] == [
        "unquantized - - - -",
        "nearest baseline 2 1 paper",
        "nearest baseline 4 1 paper",
    ]
    assert list((tmp_path / "rows").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--what", "1"), "unknown option '--what'"),
        (("--bits",), "--bits wants a value"),
        (("stray",), "unexpected 'stray'"),
        (("--ranks", "0"), "--ranks wants a positive number"),
        (("--settings", "fast"), "neither paper nor default"),
        (("--methods", "ldlq:passes"), "'ldlq:passes' is not METHOD"),
        (("--tokens", "nowhere.h5"), "nowhere.h5 is not there"),
        (("--out", ""), "--out is missing"),
        (("--only", "x"), "--only wants the number of a row, not 'x'"),
        (("--only", "99"), "--only 99: the grid has rows 0 to 48"),
    ],
)
def test_mistakes_on_the_command_line(options, message, tmp_path):
    script = [str(cli.ROOT / "jobs" / "sweep.sh"), "--quip", str(cli.QUIP)]
    base = {"--model": NANO, "--tokens": cli.CALIBRATION, "--eval": cli.CALIBRATION}
    given = [str(word) for pair in base.items() for word in pair] + ["--out", str(tmp_path / "o")]
    result = subprocess.run(
        [*script, *given, *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr


def test_without_quip_the_program_is_looked_for(tmp_path):
    given = ["--model", NANO, "--tokens", cli.CALIBRATION, "--eval", cli.CALIBRATION]
    result = subprocess.run(
        ["bash", cli.ROOT / "jobs" / "sweep.sh", *given, "--out", tmp_path],
        env=os.environ | {"QUIP": "no-such-program"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    message = "'no-such-program' is not on the PATH; set QUIP to the program"
    assert result.stderr == f"sweep.sh: error: {message}\n"
