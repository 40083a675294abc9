"""Talks to the Slurm on this machine that conftest's fixture `cluster` starts."""

import os
import re
import shutil
import subprocess
import time

import pytest

import cli

CLUSTER = cli.ROOT / "slurm" / "local-cluster"

needs_slurm = pytest.mark.skipif(
    shutil.which("sbatch") is None, reason="Slurm is not installed (jobs/install-deps.sh --slurm)"
)


def cluster_environment(folder, offset=0):
    """In which slurm/local-cluster keeps its files in `folder`, and Slurm's commands find them."""
    port = 20000 + (os.getpid() + offset) % 10000  # several test runs may share a machine
    environment = os.environ | cli.ENVIRONMENT | {"QUIP": str(cli.QUIP)}
    environment |= {"QUIP_CLUSTER_DIR": str(folder), "QUIP_CLUSTER_PORT": str(port)}
    return environment | {"SLURM_CONF": str(folder / "slurm.conf")}


def slurm(cluster, *command, **extra):
    """What a command prints; `extra` are environment variables."""
    done = subprocess.run(
        list(map(str, command)), env=cluster | extra, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def record(cluster, job):
    return slurm(cluster, "scontrol", "show", "job", job)


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def state_at_end(cluster, job, seconds=90):
    """Waits until the job has ended in one way or the other; its state."""
    ended = re.compile(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL)")
    found = []
    wait_for(lambda: found.append(ended.search(record(cluster, job))) or found[-1], seconds)
    return found[-1][1]
