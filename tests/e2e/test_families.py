"""Every family, from its checkpoint to an export: what transformers computed, on any ranks."""

import json

import pytest
import test_export
import test_measures
from safetensors import safe_open

import cli

FAMILIES = sorted(folder.name for folder in (cli.DATA / "families").iterdir())
# By day trellis codes for fused and stacked tensors and latent attention, at night for all.
WITH_TRELLIS = FAMILIES if cli.THOROUGH else ["deepseek-v3", "gpt-oss", "phi3"]
CASES = [(name, "scalar") for name in FAMILIES] + [(name, "trellis") for name in WITH_TRELLIS]
FUSED = "model.layers.0.self_attn.qkv_proj.weight"


@pytest.mark.parametrize("name", FAMILIES)
def test_three_ranks_agree_with_transformers(name):
    checkpoint, tokens = cli.family(name)
    expected = json.loads((checkpoint / "expected.json").read_text())["mean_loss"]
    report = cli.evaluate(checkpoint, tokens, ranks=3)
    assert report["mean_loss"] == pytest.approx(expected, rel=1e-4)
    assert report == cli.evaluate(checkpoint, tokens)


@pytest.mark.parametrize(("name", "codebook"), CASES)
def test_quantized_and_exported(name, codebook, tmp_path):
    checkpoint, tokens = cli.family(name)
    packed = tmp_path / "packed"
    options = ("--bits", 2, "--codebook", codebook, "--tokens", tokens)
    cli.quantize(checkpoint, packed, *options)
    assert all(0 < layer["relative_proxy_loss"] < 1 for layer in cli.inspect(packed)["layers"])
    exported = tmp_path / "exported"
    cli.run(
        "export", "--packed", packed, "--model", checkpoint, "--format", "bf16", "--out", exported
    )
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    # Large random weights feel the rounding to bf16 more than those of real models.
    assert cli.evaluate(exported, tokens)["mean_loss"] == pytest.approx(expected, rel=3e-3)
    test_export.check_complete(checkpoint, exported)


def test_bits_do_not_depend_on_ranks_where_linears_share_tensors(tmp_path):
    checkpoint, tokens = cli.family("phi3")

    def digest(ranks):
        out = tmp_path / f"{ranks}"
        cli.quantize(checkpoint, out, "--bits", 2, "--tokens", tokens, ranks=ranks)
        return cli.inspect(out)["digest"]

    assert digest(1) == digest(3)


def test_a_tensor_of_which_a_part_is_left_as_it_is(tmp_path):
    """It stays with the others as a whole, and is put together again in an export."""
    checkpoint, tokens = cli.family("phi3")
    packed = tmp_path / "packed"
    skip = ("--skip", "k_proj|layers.1.mlp.up_proj")
    options = ("--bits", 4, "--codebook", "trellis", "--tokens", tokens)
    cli.quantize(checkpoint, packed, *options, *skip)
    exported = tmp_path / "exported"
    cli.run(
        "export", "--packed", packed, "--model", checkpoint, "--format", "bf16", "--out", exported
    )
    test_export.check_complete(checkpoint, exported)
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    assert cli.evaluate(exported, tokens)["mean_loss"] == pytest.approx(expected, rel=3e-3)
    with safe_open(checkpoint / "model.safetensors", framework="numpy") as source:
        before = source.get_tensor(FUSED)
    after = test_measures.tensor(exported, FUSED)
    off = abs(after - before).max(axis=1) / abs(before).max(axis=1)
    assert off[64:96].max() <= 2**-8  # the keys' rows: rounded to bf16
    assert off[:64].min() > 2**-8
    assert off[96:].min() > 2**-8
    refused = cli.run(
        *("export", "--packed", packed, "--model", checkpoint, "--format", "exl3"),
        *("--out", tmp_path / "exl3"),
        check=False,
    )
    assert refused.returncode == 1
    assert "cannot hold" in refused.stderr
