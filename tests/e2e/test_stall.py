"""A rank that stops in mid-run ends the job soon, with one line that names it."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import cli

TIMEOUT = 2
ENDS_WITHIN = 10  # the timeout, the roll call, and what mpirun takes to end its ranks


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank → process, of the ranks that `launcher` has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue  # it has just ended
        for entry in environment:
            if parent == launcher and entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                found[int(entry.partition(b"=")[2])] = int(folder.name)
    return found


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start_and_stop(rank: int, tmp_path) -> tuple[subprocess.Popen, dict[int, int], str]:
    """Stops one of three ranks after the first block; returns what was said until then."""
    command = [
        "mpirun", "-n", "3", cli.QUIP, "quantize", "--model", cli.model("llama-nano"), "--tokens",
        cli.CALIBRATION, "--out", tmp_path / "out", "--bits", "2", "--progress", "lines",
        "--stall-timeout", TIMEOUT,
    ]  # fmt: skip
    job = subprocess.Popen(
        [str(part) for part in command],
        env=os.environ | cli.ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = ""
    while "block 1/" not in said:
        line = job.stderr.readline()
        assert line, said
        said += line
    ranks = ranks_of(job.pid)
    assert sorted(ranks) == [0, 1, 2]
    os.kill(ranks[rank], signal.SIGSTOP)
    return job, ranks, said


def check_end(stopped: int, speaker: int, tmp_path):
    job, ranks, said = start_and_stop(stopped, tmp_path)
    start = time.monotonic()
    try:
        said += job.communicate(timeout=60)[1]
        # mpirun may return a moment before the last rank that it has killed is gone.
        while left_behind := [rank for rank, process in ranks.items() if runs(process)]:
            if time.monotonic() - start > ENDS_WITHIN:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - start
    finally:
        job.kill()
        for process in filter(runs, ranks.values()):
            os.kill(process, signal.SIGKILL)
    assert seconds < ENDS_WITHIN
    assert not left_behind
    assert job.returncode == 3
    lines = [line for line in said.splitlines() if "error:" in line]
    assert len(lines) == 1, said
    # Between two phases there is only the block and its last step.
    doing = r"(phase '\w+' \()?block \d of 4, [\w ]+\)?"
    # A rank that has handed on its part of a collective may be stopped after it.
    where = "(is missing from it|has left it and no longer serves it)"
    assert re.fullmatch(
        rf"quip: error: rank {speaker} \(host \S+\) has waited [2-5] s in [a-z-]+, {doing}, "
        rf"without progress; rank {stopped} \(host \S+\) {where}, last seen [2-5] s ago in "
        rf"{doing} \(--stall-timeout 2\)",
        lines[0],
    ), lines[0]


def test_a_stopped_rank_ends_the_job(tmp_path):
    check_end(stopped=2, speaker=0, tmp_path=tmp_path)


def test_rank_0_may_be_the_one(tmp_path):
    check_end(stopped=0, speaker=1, tmp_path=tmp_path)


def test_a_timeout_without_meaning(tmp_path):
    for value in ("-1", "nan", "soon"):
        result = cli.run(
            "quantize", "--model", tmp_path, "--tokens", tmp_path, "--out", tmp_path / "out",
            "--stall-timeout", value, check=False,
        )  # fmt: skip
        assert result.returncode == 2
        assert "stall-timeout" in result.stderr
