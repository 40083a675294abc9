"""Fixtures shared by the end-to-end tests."""

import functools
import hashlib
import subprocess
from pathlib import Path

import pytest

import cli
import hf_models
from local_slurm import CLUSTER, cluster_environment


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    """quantized(model name, *options) → packed directory; equal calls share one run."""
    root = tmp_path_factory.mktemp("quantized")

    def make(name: str, *options: object) -> Path:
        key = hashlib.sha1(repr((name, *map(str, options))).encode()).hexdigest()[:12]
        out = root / f"{name}-{key}"
        if not out.exists():
            cli.quantize(cli.model(name), out, *options)
        return out

    return make


@pytest.fixture(scope="session")
def perplexity():
    """perplexity(model name, packed directory) on the evaluation tokens; equal calls share one
    run."""

    @functools.cache
    def measure(name: str, packed: Path | None = None) -> float:
        return cli.evaluate(cli.model(name), packed=packed, timeout=280)["perplexity"]

    return measure


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """The first eight samples of the calibration set in a file of their own."""
    ids = hf_models.read_tokens(cli.CALIBRATION)[:8]
    return hf_models.write_tokens(tmp_path_factory.mktemp("few") / "few.h5", ids)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm of four nodes on this machine, each with two GPUs that are none: the environment in
    which its commands reach it."""
    environment = cluster_environment(tmp_path_factory.mktemp("cluster") / "c")
    subprocess.run([CLUSTER, "up", "4", "2"], env=environment, check=True, capture_output=True)
    yield environment
    subprocess.run([CLUSTER, "down"], env=environment, check=True, capture_output=True)
