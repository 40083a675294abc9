"""What `quip export` writes is a checkpoint as transformers writes it, and means the same."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open

import checkpoints
import cli
import hf_models

REFERENCE = json.loads((cli.DATA / "transformers.json").read_text())["exports"]


@pytest.mark.parametrize("name", hf_models.EXPORTS)
def test_real_models(name, quantized, tmp_path):
    """The loss by transformers was measured once: 2 % leave room for a better quantizer."""
    ids = hf_models.read_tokens(cli.EVALUATION)[: hf_models.EXPORT_ROWS]
    tokens = hf_models.write_tokens(tmp_path / "rows.h5", ids)
    packed = quantized(name, *hf_models.EXPORTS[name])
    loss = check_export(cli.model(name), packed, tokens, tmp_path / "exported")
    assert loss == pytest.approx(REFERENCE[name], rel=0.02)


@pytest.mark.parametrize(
    "name", ["llama-sharded", "llama-tied", "mistral-window", "qwen2", "opt-350m-like"]
)
def test_families(name, tmp_path):
    """A spread of two in the logits of random weights would feel the rounding to bf16 as no real
    model does: a loss of 9.9 moved by 0.003.
    """
    ids = hf_models.random_tokens(samples=64)
    tokens = hf_models.write_tokens(tmp_path / "random.h5", ids)
    checkpoint = hf_models.make(name, tmp_path / "model", dtype="BF16", spread=0.5)
    packed = cli.quantize(checkpoint, tmp_path / "packed", "--bits", 2, "--tokens", tokens)
    check_export(checkpoint, packed, tokens, tmp_path / "exported")


def check_export(checkpoint, packed, tokens, exported):
    """The losses differ by the rounding of the weights to bf16 alone; 1e-3 is 0.1 % in
    perplexity."""
    cli.run(
        "export", "--packed", packed, "--model", checkpoint, "--format", "bf16", "--out", exported
    )
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    measured = cli.evaluate(exported, tokens)["mean_loss"]
    assert measured == pytest.approx(expected, abs=1e-3)
    assert measured != pytest.approx(cli.evaluate(checkpoint, tokens)["mean_loss"], abs=1e-5)
    check_complete(checkpoint, exported)
    return measured


def check_complete(checkpoint, exported):
    """Names and shapes are those of the original checkpoint, or of what its 8- and 4-bit weights
    stand for; the configuration is kept."""
    before = json.loads((checkpoint / "config.json").read_text())
    if before.pop("quantization_config", None) is None:
        assert shapes(exported) == shapes(checkpoint)
    else:
        assert shapes(exported) == decoded_shapes(checkpoint)
    after = json.loads((exported / "config.json").read_text())
    types = {"torch_dtype": "bfloat16"} | ({"dtype": "bfloat16"} if "dtype" in before else {})
    assert before | types == after


def decoded_shapes(directory):
    """Without scales; blocks of MXFP4 [..., out, in / 32, 16] are matrices [..., in, out]."""
    found = {}
    for name, shape in shapes(directory).items():
        if name.endswith("_blocks"):
            found[name.removesuffix("_blocks")] = [*shape[:-3], shape[-2] * 32, shape[-3]]
        elif not name.endswith(("_scales", "_scale_inv")):
            found[name] = shape
    return found


def shapes(directory):
    found = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as source:
            found |= {name: source.get_slice(name).get_shape() for name in source.keys()}  # noqa: SIM118
    return found


SHORT = ("--bits", 2, "--samples", 2, "--keep-states", "none")

# Tensors that quip does not compute with: type, shape, bytes.
EXTRAS = {
    "model.position_ids": ("I64", [1, 10], np.arange(10).tobytes()),
    "model.table": ("I32", [7], np.arange(7, dtype=np.int32).tobytes()),
    "model.mask": ("BOOL", [3, 3], bytes([1, 0, 1, 1, 0, 0, 1, 1, 1])),
    "model.u8": ("U8", [7], bytes(range(7))),
    "model.f64": ("F64", [7], (np.arange(7) / 3).tobytes()),
    "model.c64": ("C64", [2], np.array([1 + 2j, 3j], np.complex64).tobytes()),
    "model.f8": ("F8_E4M3", [4, 4], bytes(range(16))),
    "model.f4": ("F4", [3, 2], bytes(range(3))),
    "model.f32": ("F32", [3], np.array([1 / 3, 1e-30, 7], np.float32).tobytes()),
    "odd/name": ("U16", [2], bytes(range(4))),
}


def with_extras(directory: Path) -> Path:
    """llama-nano with more tensors and more files."""
    checkpoint = checkpoints.copy(cli.model("llama-nano"), directory)
    header, data = checkpoints.read(checkpoint / "model.safetensors")
    for name, (dtype, shape, content) in EXTRAS.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    checkpoints.write(checkpoint / "model.safetensors", header, data)
    (checkpoint / "LICENSE").write_text("Do pass it on.")
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\n---\nMy model\n")
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    return checkpoint


def tensors(file: Path) -> dict[str, tuple]:
    """Type, shape and bytes of the tensors of one safetensors file."""
    header, data = checkpoints.read(file)
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def test_nothing_is_lost(tmp_path):
    """All tensors but the quantized ones, and all files beside them, are there byte for byte."""
    checkpoint = with_extras(tmp_path / "model")
    packed = cli.quantize(checkpoint, tmp_path / "packed", *SHORT, ranks=2)
    exported = tmp_path / "exported"
    cli.run("export", "--packed", packed, "--model", checkpoint, "--out", exported, ranks=3)
    before = tensors(checkpoint / "model.safetensors")
    after = tensors(exported / "model.safetensors")
    assert after.keys() == before.keys()
    quantized = {f"{layer['name']}.weight" for layer in cli.inspect(packed, "--verify")["layers"]}
    assert {name for name in before if before[name] != after[name]} == quantized
    assert {name: after[name] for name in EXTRAS} == EXTRAS
    files = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()]
    for file in files:
        if file.name not in ("config.json", "model.safetensors"):
            kept = "README-original.md" if file.name == "README.md" else file
            assert (exported / kept).read_bytes() == (checkpoint / file).read_bytes()
    check_card(exported, packed)


def check_card(exported, packed):
    """The model card names the base model, its licence, bits, losses, and how to load it."""
    card = (exported / "README.md").read_text()
    head = card.split("---\n")[1].splitlines()
    assert {"license: apache-2.0", "base_model: model", "base_model_relation: quantized"} <= {*head}
    report = json.loads((packed / "report.json").read_text())
    assert f"{report['size']['bits_per_weight']:.2f} as quantized" in card
    assert f"| all | 28 | {report['mean_relative_proxy_loss']:.5f} | |" in card
    assert "16.00 here" in card and "| q_proj | 4 |" in card
    assert "AutoModelForCausalLM.from_pretrained" in card


def test_other_types_are_what_h5py_shows(tmp_path):
    """HDF5's own types where it has them, else unsigned integers of the same width."""
    packed = cli.quantize(with_extras(tmp_path / "model"), tmp_path / "packed", *SHORT)
    with h5py.File(packed / "rest.h5") as rest:
        assert np.array_equal(rest["model.position_ids"], np.arange(10, dtype=np.int64)[None])
        assert np.array_equal(rest["model.f64"], np.arange(7) / 3)
        assert rest["model.table"].dtype == np.int32
        for name, stored in {**dict.fromkeys(EXTRAS), "odd/name": "odd%2Fname"}.items():
            dtype, shape, content = EXTRAS[name]
            dataset = rest[stored or name]
            assert dataset.attrs["dtype"] == dtype.encode()
            assert dataset[()].tobytes() == content
            assert dtype == "F4" or dataset.shape == tuple(shape)


def test_resume_notices_a_change_of_a_tensor_that_is_only_carried(tmp_path):
    checkpoint = with_extras(tmp_path / "model")
    cli.quantize(checkpoint, tmp_path / "out", *SHORT, "--blocks", "0:1")
    checkpoints.overwrite(checkpoint, "model.position_ids", 16, b"\x09")
    result = cli.run(
        *("quantize", "--model", checkpoint, "--out", tmp_path / "out", "--resume"),
        *("--tokens", cli.CALIBRATION, *SHORT),
        check=False,
    )
    assert result.returncode == 1
    assert "inputs.checkpoint_fingerprint" in result.stderr


def refused(*arguments, ranks=2):
    """The one error line of a command that must fail."""
    result = cli.run(*arguments, ranks=ranks, check=False, timeout=60)
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "error:" in line]
    return line


def test_a_mistaken_model_costs_nothing(quantized, tmp_path):
    """The corrected command works, as nothing was written."""
    packed = quantized("llama-nano", "--bits", 2, "--samples", 16)
    other = checkpoints.copy(cli.model("llama-nano"), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 500000.0}))
    export = ("export", "--packed", packed, "--out", tmp_path / "out", "--model")
    assert "nope: no such file or directory" in refused(*export, tmp_path / "nope")
    for model in (other, cli.model("opt-micro")):
        assert f"{packed} was not made from {model}" in refused(*export, model)
    (other / "config.json").write_text((cli.model("llama-nano") / "config.json").read_text())
    (other / "tokenizer.json").unlink()
    (other / "tokenizer.json").symlink_to("../../blobs/0123")
    assert "tokenizer.json" in refused(*export, other)
    assert not (tmp_path / "out").exists()
    cli.run(*export, cli.model("llama-nano"), ranks=2)


def test_damage_is_refused_where_it_is_read(quantized, tmp_path):
    """One bit of the final norm, or an edited configuration: eval and export say so and stop."""
    packed = checkpoints.copy(quantized("llama-nano", "--bits", 2, "--samples", 16), tmp_path / "p")
    out = tmp_path / "out"
    commands = (
        ("eval", "--packed", packed, "--tokens", cli.EVALUATION, "--samples", 2),
        ("export", "--packed", packed, "--model", cli.model("llama-nano"), "--out", out),
    )
    rest = packed / "rest.h5"
    intact = rest.read_bytes()
    text = (packed / "manifest.json").read_text()
    place = json.loads(text)["rest"]["model.norm.weight"]["offset"] + 7 * 2 + 1
    rest.write_bytes(intact[:place] + bytes([intact[place] ^ 0x10]) + intact[place + 1 :])
    for command in commands:
        line = refused(*command)
        assert f"{rest}: tensor model.norm.weight" in line and "quip quantize --repair" in line
    rest.write_bytes(intact)
    edited = text.replace('"rms_norm_eps": ', '"rms_norm_eps": 1')
    assert edited != text
    (packed / "manifest.json").write_text(edited)
    for command in commands:
        line = refused(*command)
        assert str(packed / "manifest.json") in line and "quip quantize --repair" in line
    assert not out.exists() or not any(out.iterdir())


def test_the_checkpoint_is_the_one_it_was_made_from(tmp_path):
    """The same configuration with other weights is refused; the configuration alone will do."""
    checkpoint, tokens = cli.family("llama")
    packed = cli.quantize(checkpoint, tmp_path / "packed", *SHORT[:2], "--tokens", tokens)
    tuned = checkpoints.copy(checkpoint, tmp_path / "tuned")
    checkpoints.overwrite(tuned, "model.layers.1.mlp.up_proj.weight", 0, b"\0\0\0\0")
    arguments = ("export", "--packed", packed, "--out", tmp_path / "out", "--model")
    refused = cli.run(*arguments, tuned, ranks=2, check=False)
    assert refused.returncode == 1
    assert f"{packed} was not made from {tuned}: their weights differ" in refused.stderr
    assert not (tmp_path / "out").exists()
    (tuned / "model.safetensors").unlink()
    cli.run(*arguments, tuned)
