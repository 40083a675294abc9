"""What `quip export` writes loads in transformers and means the same."""

import json

import pytest
import torch
from safetensors import safe_open

import cli
import hf_models

ROWS = 64  # of the evaluation set: transformers on a CPU is slow


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    ids = hf_models.read_tokens(cli.EVALUATION)[:ROWS]
    return hf_models.write_tokens(tmp_path_factory.mktemp("rows") / "rows.h5", ids), ids


DYNAMIC_GROUPS = ("--processing", "baseline", "--method", "optq", "--group-size", 48)


@pytest.mark.parametrize(
    ("name", "options"), [("llama-nano", ()), ("opt-micro", DYNAMIC_GROUPS)], ids=["llama", "opt"]
)
def test_real_models(name, options, evaluation, quantized, tmp_path):
    tokens, ids = evaluation
    packed = quantized(name, "--bits", 2, "--samples", 16, *options)
    check_export(cli.model(name), packed, tokens, ids, tmp_path / "exported")


@pytest.mark.parametrize(
    "name", ["llama-sharded", "llama-tied", "mistral-window", "qwen2", "opt-350m-like"]
)
def test_families(name, tmp_path):
    """A spread of two in the logits of random weights would feel the rounding to bf16 as no real
    model does: a loss of 9.9 moved by 0.003.
    """
    ids = hf_models.random_tokens(samples=64)
    tokens = hf_models.write_tokens(tmp_path / "random.h5", ids)
    checkpoint = hf_models.make(name, tmp_path / "model", dtype=torch.bfloat16, spread=0.5)
    packed = cli.quantize(checkpoint, tmp_path / "packed", "--bits", 2, "--tokens", tokens)
    check_export(checkpoint, packed, tokens, ids, tmp_path / "exported")


def check_export(checkpoint, packed, tokens, ids, exported):
    """The losses differ by the rounding of the weights to bf16 alone; 1e-3 is 0.1 % in
    perplexity."""
    cli.run(
        "export", "--packed", packed, "--model", checkpoint, "--format", "bf16", "--out", exported
    )
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    measured = hf_models.mean_loss(hf_models.load(exported), ids)
    assert measured == pytest.approx(expected, abs=1e-3)
    assert measured != pytest.approx(hf_models.mean_loss(hf_models.load(checkpoint), ids), abs=1e-5)
    check_complete(checkpoint, exported)


def check_complete(checkpoint, exported):
    """Names and shapes are those of the original checkpoint; the configuration is kept."""
    assert shapes(exported) == shapes(checkpoint)
    before = json.loads((checkpoint / "config.json").read_text())
    after = json.loads((exported / "config.json").read_text())
    assert {**before, "torch_dtype": None} == {**after, "torch_dtype": None}


def shapes(directory):
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as source:
            found |= {name: source.get_slice(name).get_shape() for name in source.keys()}  # noqa: SIM118
    return found
