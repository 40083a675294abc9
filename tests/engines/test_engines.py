"""What engines' own readers make of exports: transformers with compressed-tensors, on a CPU.

Needs the environment of jobs/install-deps.sh --engines (PyTorch, some 6 GB), so it runs at night
(tests/nightly.sh), not with every change.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import cli
import hf_models

PYTHON = cli.ROOT / ".venv-engines" / "bin" / "python"
FAMILIES = sorted(path.name for path in (cli.DATA / "families").iterdir())
# Stacked tensors, of which an expert is no run of rows: refused by name (test_compressed_tensors).
STACKED = {"gpt-oss", "gpt-oss-mxfp4", "llama4"}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-engines")


def loss(directory, ids, *how):
    """By transformers, whose warnings come before the number."""
    command = [PYTHON, Path(__file__).with_name("loss.py"), directory, ids, *how]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return float(done.stdout.split()[-1])


def check(checkpoint, tokens, samples, options, tmp_path, *how):
    packed = cli.quantize(checkpoint, tmp_path / "packed", *options)
    out = tmp_path / "exported"
    arguments = ("export", "--packed", packed, "--model", checkpoint, "--out", out)
    cli.run(*arguments, "--format", "compressed-tensors")
    rows = hf_models.read_tokens(tokens)[:samples]
    np.save(tmp_path / "ids.npy", rows.astype(np.int64))
    expected = cli.evaluate(checkpoint, tokens, packed, samples=len(rows))["mean_loss"]
    assert loss(out, tmp_path / "ids.npy", *how) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in STACKED])
def test_families(name, tmp_path):
    checkpoint, tokens = cli.family(name)
    options = ("--for", "vllm", "--bits", 4, "--group-size", 8, "--tokens", tokens)
    check(checkpoint, tokens, 8, options, tmp_path)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["llama-nano", "opt-micro", "llama-micro"])
def test_bundled_models(name, bits, tmp_path):
    options = ("--for", "vllm", "--bits", bits, "--group-size", 16, "--samples", 8)
    check(cli.model(name), cli.EVALUATION, 8, options, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        ("--bits", 3, "--group-size", 32),  # with zero points
        ("--bits", 2, "--grid", "incoherent"),
    ],
)
def test_other_grids(options, tmp_path):
    """Dequantized while loading: transformers 5.24 loads no packed zero points otherwise."""
    options = ("--processing", "baseline", "--samples", 8, *options)
    check(cli.model("llama-nano"), cli.EVALUATION, 8, options, tmp_path, "dequantize")


def test_mixed_bits(tmp_path):
    """Not dequantized while loading: transformers 5.24 takes all layers for alike there."""
    rules = ("--override", "down_proj:bits=8", "--override", "layers.2:bits=2")
    options = ("--for", "vllm", "--bits", 3, "--group-size", 32, *rules, "--samples", 8)
    check(cli.model("llama-nano"), cli.EVALUATION, 8, options, tmp_path)
