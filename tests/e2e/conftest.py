"""Fixtures shared by the end-to-end tests."""

import hashlib
from pathlib import Path

import pytest

import cli


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
