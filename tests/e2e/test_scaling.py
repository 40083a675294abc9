"""Scaling studies and sweeps as Slurm jobs, on four nodes of this machine, and without Slurm.

What the charts show is test_plot_scaling.py's. QUIP_THOROUGH=1 repeats every run.
"""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from local_slurm import needs_slurm, slurm, state_at_end

NANO = cli.model("llama-nano")
CODES = ("--bits", 2, *cli.QUICK)
QUANTIZE = ("--model", NANO, "--tokens", cli.CALIBRATION, *CODES)
ONE_CORE = ("--sbatch", "--ntasks-per-node=1", "--sbatch", "--cpus-per-task=1")
REPEATS = 2 if cli.THOROUGH else 1
ENVIRONMENT = {"QUIP": str(cli.QUIP), "QUIP_PYTHON": sys.executable}


def start(script, *arguments, environment=None, **extra):
    """A script as a user starts it, outside any job."""
    return subprocess.run(
        ["bash", cli.ROOT / "jobs" / script, *map(str, arguments)],
        env=os.environ | cli.ENVIRONMENT | (environment or {}) | ENVIRONMENT | extra,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def submitted(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return re.search(r"; job (\d+) ", done.stdout)[1]


def study_of(folder):
    """Rows of the CSV, after a look at the files beside it."""
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "scaling.svg").read_text()
    with (folder / "scaling.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = (folder / "scaling.md").read_text().split("\n\n")[1].splitlines()
    assert len(table) - 2 == len({row["ranks"] for row in rows})
    assert list((folder / "runs").iterdir()) == []  # packed models are large
    return rows


def logs_of(folder):
    return "\n".join(f"{log}:\n{log.read_text()}" for log in sorted(folder.glob("logs/*.log")))


@needs_slurm
def test_studies_on_slurm(cluster, quantized, tmp_path):
    """Both kinds at the same time, as they are submitted: by both launchers."""
    strong, weak = tmp_path / "a strong study", tmp_path / "a weak one"
    how = ("--node-counts", "1,2,4", "--repeats", REPEATS, *ONE_CORE)
    strongly = ("--study", strong, *how, "--", *QUANTIZE, "--samples", 8)
    first = start("scaling_strong.sbatch", *strongly, environment=cluster)
    weakly = ("--study", weak, *how, "--samples-each", 2, "--one-by-one", "--", *QUANTIZE)
    second = start("scaling_weak.sbatch", *weakly, environment=cluster, QUIP_LAUNCHER="mpirun")
    for done, folder in ((first, strong), (second, weak)):
        assert state_at_end(cluster, submitted(done), 250) == "COMPLETED", logs_of(folder)

    rows = study_of(strong)
    assert [row["nodes"] for row in rows] == [n for n in "124" for _ in range(REPEATS)]
    assert [row["ranks"] for row in rows] == [row["nodes"] for row in rows]
    undisturbed = cli.inspect(quantized("llama-nano", "--bits", 2, "--samples", 8))["digest"]
    assert {row["digest"] for row in rows} == {undisturbed}
    assert all(float(row["communication_seconds"]) > 0 for row in rows if row["ranks"] != "1")

    rows = study_of(weak)
    assert [float(row["work"]) for row in rows] == [n for n in (1, 2, 4) for _ in range(REPEATS)]
    assert rows[-1]["digest"] == undisturbed  # four nodes with two samples each
    assert len({row["digest"] for row in rows}) == 3

    again = start("scaling_strong.sbatch", *strongly, environment=cluster)
    assert again.stdout.startswith("nothing is left to measure")
    slurm(cluster, "scancel", submitted(again))


def test_a_study_on_this_machine(quantized, tmp_path):
    arguments = ("--study", tmp_path / "s", "--ranks", "1,2", "--repeats", 2)
    done = start("scaling_strong.sbatch", *arguments, "--", *QUANTIZE, "--samples", 8)
    assert done.returncode == 0, done.stdout + done.stderr + logs_of(tmp_path / "s")
    order = re.findall(r"run (\d{4}-\d): ", done.stdout)
    assert order == ["0001-1", "0002-1", "0001-2", "0002-2"]  # they take turns
    rows = study_of(tmp_path / "s")
    assert [(row["nodes"], row["ranks"], row["repeat"]) for row in rows] == [
        *(("1", "1", "1"), ("1", "1", "2"), ("1", "2", "1"), ("1", "2", "2"))
    ]
    undisturbed = cli.inspect(quantized("llama-nano", "--bits", 2, "--samples", 8))["digest"]
    assert {row["digest"] for row in rows} == {undisturbed}
    other = start("scaling_strong.sbatch", *arguments, "--", *QUANTIZE, "--samples", 9)
    assert other.returncode == 2 and "holds another study" in other.stderr


def test_runs_that_fail_are_named_and_the_others_kept(tmp_path):
    """The set has 128 samples: enough for one rank, too few for two."""
    arguments = ("--study", tmp_path, "--ranks", "1,2", "--repeats", 1, "--samples-each", 65)
    done = start("scaling_weak.sbatch", *arguments, "--", *QUANTIZE, "--method", "nearest")
    assert done.returncode == 1
    assert "run 0002-1 failed" in done.stderr and "--samples asks for 130" in done.stderr
    assert "scaling_weak: runs on 2 ranks are missing" in done.stderr
    assert [file.name for file in (tmp_path / "reports").iterdir()] == ["0001-1.json"]


GOOD = ("--study", "s", "--node-counts", "1,2")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("strong", ("--node-counts", "1,2", "--", "x"), "--study is missing"),
        ("strong", ("--study", "s", "--node-counts", "2,2", "--", "x"), "at least two numbers"),
        ("strong", ("--study", "s", "--node-counts", "1,0", "--", "x"), "not '1,0'"),
        ("strong", (*GOOD, "--repeats", "some", "--", "x"), "'some': --threads, --repeats"),
        ("strong", GOOD, "no options of quantize after --"),
        ("strong", (*GOOD, "--bits", "2"), "unknown option '--bits'; options of quantize stand"),
        ("strong", (*GOOD, "stray"), "unexpected 'stray'"),
        ("strong", (*GOOD, "--sbatch"), "--sbatch wants a value"),
        ("strong", (*GOOD, "--", "--out=x"), "--out=x: every run of a study has a new"),
        ("strong", (*GOOD, "--samples-each", "2", "--", "x"), "is for weak scaling"),
        ("weak", (*GOOD, "--", "x"), "--samples-each is missing"),
        ("weak", (*GOOD, "--samples-each", "2", "--", "--samples", "8"), "weak scaling sets"),
        ("strong", ("--study", "s", "--ranks", "1,9999", "--", "x"), "--ranks 9999 with 1 thread"),
    ],
)
def test_mistakes_on_the_command_line(kind, options, message, tmp_path):
    options = [str(tmp_path / "s") if word == "s" else word for word in options]
    done = start(f"scaling_{kind}.sbatch", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"scaling_{kind}: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--at-once", "many"), "sweep.sbatch: error: --at-once wants a positive number, not"),
        (("--model", "x"), "sweep.sh: error: --tokens is missing"),
    ],
)
def test_mistakes_in_a_sweep(options, message):
    done = start("sweep.sbatch", *options)
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1


@needs_slurm
def test_what_slurm_refuses_is_one_line(cluster, tmp_path):
    arguments = ("--study", tmp_path / "s", "--node-counts", "1,2", "--sbatch", "--partition=none")
    done = start("scaling_strong.sbatch", *arguments, "--", "x", environment=cluster)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "nothing was submitted: sbatch: error: invalid partition" in done.stderr


@needs_slurm
def test_missing_munge_is_one_line(cluster, tmp_path):
    configuration = tmp_path / "slurm.conf"
    text = Path(cluster["SLURM_CONF"]).read_text()
    configuration.write_text(text.replace("munge.socket", "no.socket"))
    arguments = ("--study", tmp_path / "s", "--node-counts", "1,2", "--", "x")
    where = cluster | {"SLURM_CONF": str(configuration)}
    done = start("scaling_strong.sbatch", *arguments, environment=where)
    assert done.returncode == 2
    assert done.stderr == (
        "scaling_strong: error: munged does not answer on this machine, and Slurm knows users by "
        "it: have it started\n"
    )


@needs_slurm
def test_a_sweep_as_an_array_of_jobs(cluster, few, quantized, tmp_path):
    out = tmp_path / "a sweep"
    shape = (*ONE_CORE, "--sbatch", "--mem=500", "--at-once", 2)
    grid = ("--model", NANO, "--tokens", few, "--eval", few, "--out", out)
    grid += ("--bits", "4 2", "--methods", "nearest", "--settings", "paper")
    grid += ("--processing", "baseline")
    rows = (*grid, "--", "--keep-states", "none")
    done = start("sweep.sbatch", *shape, *rows, environment=cluster)
    assert "runs rows 0,1,2" in done.stdout
    assert state_at_end(cluster, submitted(done), 250) == "COMPLETED", logs_of(out)
    with (out / "sweep.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["method"], row["bits"]) for row in table] == [
        *(("unquantized", "-"), ("nearest", "4"), ("nearest", "2"))
    ]
    options = ("--method", "nearest", "--processing", "baseline", "--paper", "--samples", 8)
    for row in table[1:]:
        alone = quantized("llama-nano", "--bits", row["bits"], *options)
        assert row["digest"] == cli.inspect(alone)["digest"]
    assert list((out / "rows").iterdir()) == []

    whole = (out / "sweep.csv").read_text()
    (out / "sweep.csv").write_text(whole.rsplit("nearest", 1)[0])  # as if killed in the last line
    again = start("sweep.sbatch", *shape, *rows, environment=cluster)
    assert "runs rows 2;" in again.stdout
    assert state_at_end(cluster, submitted(again), 250) == "COMPLETED", logs_of(out)
    digests = [line.split(",")[-1] for line in (out / "sweep.csv").read_text().splitlines()]
    assert digests == [line.split(",")[-1] for line in whole.splitlines()]
