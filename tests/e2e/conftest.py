"""Fixtures shared by the end-to-end tests."""

import hashlib
import subprocess
from pathlib import Path

import pytest

import cli
from local_slurm import CLUSTER, cluster_environment


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    """quantized(model name, *options) → packed directory; equal calls share one run."""
    root = tmp_path_factory.mktemp("quantized")

    def make(name: str, *options: object) -> Path:
        key = hashlib.sha1(repr((name, *map(str, options))).encode()).hexdigest()[:12]
        out = root / f"{name}-{key}"
        if not out.exists():
            cli.quantize(cli.model(name), out, *options, threads=2)
        return out

    return make


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm of four nodes on this machine, each with two GPUs that are none: the environment in
    which its commands reach it."""
    environment = cluster_environment(tmp_path_factory.mktemp("cluster") / "c")
    subprocess.run([CLUSTER, "up", "4", "2"], env=environment, check=True, capture_output=True)
    yield environment
    subprocess.run([CLUSTER, "down"], env=environment, check=True, capture_output=True)
