"""What `quip export --format exl3` writes is the EXL3 format, and means the same."""

import json

import exl3
import numpy as np
import pytest

import checkpoints
import cli
import hf_models

NANO = ("llama-nano", "--codebook", "trellis", "--bits", 2, "--samples", 16)


def export(packed, checkpoint, out, *options, **how):
    cli.run(
        *("export", "--packed", packed, "--model", checkpoint, "--out", out, "--format", "exl3"),
        *options,
        **how,
    )
    return out


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def shapes(checkpoint):
    return {name: shape for name, (_, shape, _) in exl3.read(checkpoint).items()}


def padded(extent):
    return (extent + 127) // 128 * 128


def expected_parts(rows, cols, bits, codebook):
    """Type and shape of a layer's tensors."""
    return {
        "trellis": ("I16", [padded(cols) // 16, padded(rows) // 16, 16 * bits]),
        "suh": ("F16", [padded(cols)]),
        "svh": ("F16", [padded(rows)]),
        codebook: ("I32", []),
    }


def test_a_real_model(quantized, tmp_path):
    checkpoint = cli.model("llama-nano")
    packed = quantized(*NANO)
    exported = export(packed, checkpoint, tmp_path / "exported")
    again = export(packed, checkpoint, tmp_path / "again", ranks=2)
    assert files(again) == files(exported)

    before, after = exl3.read(checkpoint), exl3.read(exported)
    names = [layer["name"] for layer in cli.inspect(packed)["layers"]]
    assert exl3.layers(after).keys() == set(names)
    for name in names:
        _, (rows, cols), _ = before.pop(f"{name}.weight")
        for part, expected in expected_parts(rows, cols, 2, "mul1").items():
            dtype, shape, content = after.pop(f"{name}.{part}")
            assert (dtype, shape) == expected
            assert part != "mul1" or content == exl3.MULTIPLIERS["mul1"].to_bytes(4, "little")
    assert after == before

    # The same weights, but for the last bit of fp32; 1e-3 would be 0.1 % in perplexity.
    plain = exl3.write_plain(exported, shapes(checkpoint), tmp_path / "plain")
    expected = cli.evaluate(checkpoint, packed=packed, samples=32)["mean_loss"]
    assert cli.evaluate(plain, samples=32)["mean_loss"] == pytest.approx(expected, abs=1e-5)


def test_configuration(quantized, tmp_path):
    checkpoint = cli.model("llama-nano")
    exported = export(quantized(*NANO), checkpoint, tmp_path / "exported")
    summary = {
        "quant_method": "exl3",
        "version": "1.4.1",
        "bits": 2.0,
        "head_bits": 16,
        "calibration": {"rows": 16, "cols": 256},
        "out_scales": "always",
        "codebook": "mul1",
    }
    original = json.loads((checkpoint / "config.json").read_text())
    config = json.loads((exported / "config.json").read_text())
    assert config == original | {"quantization_config": summary}

    described = json.loads((exported / "quantization_config.json").read_text())
    storage = described.pop("tensor_storage")
    assert described == summary
    torch = {"I16": "int16", "I32": "int32", "F16": "float16", "BF16": "bfloat16"}
    stored = {}
    for name, (dtype, shape, content) in exl3.read(exported).items():
        entry = {"shape": shape, "n_bytes": len(content), "dtype": f"torch.{torch[dtype]}"}
        stored.setdefault(name.rpartition(".")[0], {})[name] = entry
    assert {name: module["stored_tensors"] for name, module in storage.items()} == stored
    assert storage["lm_head"].keys() == {"stored_tensors"}
    layer = storage["model.layers.3.mlp.down_proj"]
    del layer["stored_tensors"]
    multiplier = exl3.MULTIPLIERS["mul1"]
    assert layer == {"quant_format": "exl3", "bits_per_weight": 2, "mul1_multiplier": multiplier}


def test_biases_and_a_tied_head(tmp_path):
    """Biases become halves with zeros for the outputs that are padding; the embedding stays, and
    the head is there beside it."""
    ids = hf_models.random_tokens(samples=16)
    tokens = hf_models.write_tokens(tmp_path / "random.h5", ids)
    config = hf_models.opt(num_hidden_layers=1)
    checkpoint = hf_models.write_model(config, tmp_path / "model", spread=0.5)
    packed = cli.quantize(
        *(checkpoint, tmp_path / "packed", "--codebook", "trellis", "--trellis", "mcg"),
        *("--bits", 3, "--override", "fc1:bits=4", "--tokens", tokens),
    )
    exported = export(packed, checkpoint, tmp_path / "exported", "--head-bits", 4)
    again = export(packed, checkpoint, tmp_path / "again", "--head-bits", 4, ranks=2)
    assert files(again) == files(exported)

    before, after = exl3.read(checkpoint), exl3.read(exported)
    embedding = "model.decoder.embed_tokens.weight"
    assert after[embedding] == before[embedding]
    config = json.loads((exported / "config.json").read_text())
    assert "tie_word_embeddings" not in config
    assert config["quantization_config"]["head_bits"] == 4
    assert config["quantization_config"]["codebook"] == "mcg"
    # fc1 is [160, 64], padded to 256 × 128 of the block's 4·128·128 + 2·256·128 weights.
    assert config["quantization_config"]["bits"] == 3.25

    layers = exl3.layers(after)
    bias = layers["model.decoder.layers.0.fc1"]["bias"]
    plain_bias = np.frombuffer(before["model.decoder.layers.0.fc1.bias"][2], "<f4")
    assert np.array_equal(bias, np.pad(plain_bias.astype("<f2"), (0, padded(160) - 160)))
    table = np.frombuffer(before[embedding][2], "<f4").reshape(before[embedding][1])
    rows, cols = table.shape
    head = layers.pop("lm_head")
    assert {part: head[part].shape for part in head} == {
        part: tuple(shape) for part, (_, shape) in expected_parts(rows, cols, 4, "mcg").items()
    }
    # 4 bits leave 0.004 of the energy of Gaussian weights (rate-distortion bound: 2⁻⁸).
    error = exl3.decode(head)[:rows, :cols] - table
    assert 2.0**-8 < np.sum(error**2) / np.sum(table**2) < 0.008

    with_head = {**shapes(checkpoint), "lm_head.weight": [rows, cols]}
    plain = exl3.write_plain(exported, with_head, tmp_path / "plain")
    assert exl3.read(plain).keys() == with_head.keys()
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    assert cli.evaluate(plain, tokens)["mean_loss"] == pytest.approx(expected, rel=0.01)


def test_refusals(tmp_path):
    checkpoint = hf_models.write_model(hf_models.llama(num_hidden_layers=2), tmp_path / "model")
    tokens = hf_models.write_tokens(tmp_path / "random.h5", hf_models.random_tokens())
    packed = cli.quantize(
        *(checkpoint, tmp_path / "packed", "--tokens", tokens, "--bits", 1),
        *("--codebook", "trellis", "--override", "mlp:codebook=scalar,bits=2"),
    )
    out = tmp_path / "out"
    arguments = ("export", "--packed", packed, "--model", checkpoint, "--out", out)
    result = cli.run(*arguments, "--format", "exl3", ranks=2, check=False)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "error:" in line]
    scalar = ", ".join(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down"))
    assert (
        f"--format exl3 cannot hold {scalar} and 3 more: their codes are scalar; quantize" in line
    )
    assert "--codebook trellis" in line and "--format bf16" in line
    assert not out.exists()
    for bits, message in ((4, "--head-bits belongs to --format exl3"), (9, "must be 1 to 8")):
        result = cli.run(*arguments, "--head-bits", bits, check=False)
        assert result.returncode == 2 and message in result.stderr
    cli.run(*arguments, "--format", "bf16")
    assert checkpoints.read(out / "model.safetensors")[0].keys() >= shapes(checkpoint).keys()
