"""Checkpoints that hold a model otherwise than as plain tensors under its own names."""

import json
import math

import numpy as np
import pytest
import test_export

import checkpoints
import cli

BLOCK = (24, 40)  # neither divides a side
VISION = "vision_tower.patch.weight"
# Values of F8_E4M3 by their bits, from the format's definition.
FP8 = np.array(
    [
        (-1) ** (bits >> 7)
        * (
            math.ldexp(bits & 7, -9)
            if bits >> 3 & 15 == 0
            else math.ldexp(8 + (bits & 7), (bits >> 3 & 15) - 10)
        )
        for bits in range(256)
    ],
    np.float32,
)


def family(name):
    folder = cli.DATA / "families" / name
    header, data = checkpoints.read(folder / "model.safetensors")
    header.pop("__metadata__", None)
    tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }
    return json.loads((folder / "config.json").read_text()), tensors, folder / "tokens.h5"


def write(directory, config, tensors):
    directory.mkdir()
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    checkpoints.write(directory / "model.safetensors", header, data)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def in_blocks(scales, shape):
    """Every scale at the elements of its block."""
    rows = scales.repeat(BLOCK[0], axis=0)[: shape[0]]
    return rows.repeat(BLOCK[1], axis=1)[:, : shape[1]]


def fp8_of(values):
    """The nearest values in fp8, with the scale of each block."""
    rows, cols = (-(-extent // block) for extent, block in zip(values.shape, BLOCK, strict=True))
    scales = np.empty((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            block = values[i * BLOCK[0] : (i + 1) * BLOCK[0], j * BLOCK[1] : (j + 1) * BLOCK[1]]
            scales[i, j] = np.abs(block).max() / 448
    order = np.argsort(FP8[:127])
    magnitudes = FP8[:127][order]
    scaled = values / in_blocks(scales, values.shape)
    places = np.abs(np.abs(scaled)[..., None] - magnitudes).argmin(axis=-1)
    bits = (order[places] | np.where(scaled < 0, 128, 0)).astype(np.uint8)
    return bits, scales


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A model in fp8, and the same numbers in fp32."""
    folder = tmp_path_factory.mktemp("sources")
    config, tensors, tokens = family("mistral")
    stored, plain = {}, {}
    for name, (dtype, shape, content) in tensors.items():
        plain[name] = stored[name] = (dtype, shape, content)
        if not name.endswith("_proj.weight"):
            continue
        bits, scales = fp8_of(np.frombuffer(content, np.float32).reshape(shape))
        stored[name] = ("F8_E4M3", shape, bits.tobytes())
        stored[f"{name}_scale_inv"] = ("F32", list(scales.shape), scales.tobytes())
        values = FP8[bits] * in_blocks(scales, shape)
        plain[name] = ("F32", shape, values.tobytes())
    # A layer for several tokens at once, which no family has.
    stored["model.layers.2.q_proj.weight"] = ("F8_E4M3", [2, 2], b"\x01\x7f\xff\x38")
    stored["model.layers.2.q_proj.weight_scale_inv"] = ("F32", [1, 1], bytes(4))
    quantized = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(BLOCK)}
    fp8 = write(folder / "fp8", config | {"quantization_config": quantized}, stored)
    return fp8, write(folder / "fp32", config, plain), tokens


def test_fp8_is_the_fp32_that_it_stands_for(sources, tmp_path):
    fp8, plain, tokens = sources
    assert cli.evaluate(fp8, tokens, ranks=3) == cli.evaluate(plain, tokens)
    options = ("--bits", 3, "--tokens", tokens, "--skip", "layers.1.*q_proj")
    first = cli.quantize(fp8, tmp_path / "fp8", *options, ranks=3)
    second = cli.quantize(plain, tmp_path / "fp32", *options)
    assert cli.inspect(first)["digest"] == cli.inspect(second)["digest"]
    assert cli.evaluate(fp8, tokens, first) == cli.evaluate(plain, tokens, second)


def test_fp8_is_exported_without_its_scales(sources, tmp_path):
    fp8, plain, tokens = sources
    packed = cli.quantize(
        fp8, tmp_path / "packed", "--bits", 3, "--tokens", tokens, "--skip", "layers.1.*q_proj"
    )
    exported = tmp_path / "exported"
    cli.run("export", "--packed", packed, "--model", fp8, "--format", "bf16", "--out", exported)
    assert "quantization_config" not in json.loads((exported / "config.json").read_text())
    extra = {
        "model.layers.2.q_proj.weight": [2, 2],
        "model.layers.2.q_proj.weight_scale_inv": [1, 1],
    }
    assert test_export.shapes(exported) == test_export.shapes(plain) | extra
    header, data = checkpoints.read(exported / "model.safetensors")
    untouched = header["model.layers.2.q_proj.weight"]
    assert untouched["dtype"] == "F8_E4M3"
    assert data[slice(*untouched["data_offsets"])] == b"\x01\x7f\xff\x38"
    expected = cli.evaluate(fp8, tokens, packed)["mean_loss"]
    assert cli.evaluate(exported, tokens)["mean_loss"] == pytest.approx(expected, rel=3e-3)


def wrapped(directory, name, root, head):
    """The model as the text's part of one that sees, too."""
    config, tensors, tokens = family(name)
    renamed = {VISION: ("BF16", [3, 5], bytes(range(30)))}
    for tensor, content in tensors.items():
        renamed[head if tensor == "lm_head.weight" else root + tensor.removeprefix("model.")] = (
            content
        )
    text = {key: value for key, value in config.items() if key != "architectures"}
    outer = {
        "model_type": "seeing",
        "architectures": ["SeeingForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"hidden_size": 5},
        "torch_dtype": "float32",
    }
    return write(directory, outer, renamed), tokens


ROOTS = [
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
    ("model.", "lm_head.weight"),
]


@pytest.mark.parametrize(("root", "head"), ROOTS)
@pytest.mark.parametrize("name", ["llama4", "gemma3", "gpt-oss-mxfp4"])
def test_the_text_of_a_wrapper_is_evaluated(name, root, head, tmp_path):
    checkpoint, tokens = wrapped(tmp_path / "model", name, root, head)
    folder = cli.DATA / "families" / name
    assert cli.evaluate(checkpoint, tokens) == cli.evaluate(folder, tokens)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_wrapper_is_quantized_and_exported_with_its_other_parts(name, tmp_path):
    checkpoint, tokens = wrapped(tmp_path / "model", name, *ROOTS[0])
    packed = cli.quantize(checkpoint, tmp_path / "packed", "--bits", 3, "--tokens", tokens)
    exported = tmp_path / "exported"
    cli.run(
        "export", "--packed", packed, "--model", checkpoint, "--format", "bf16", "--out", exported
    )
    test_export.check_complete(checkpoint, exported)
    header, data = checkpoints.read(exported / "model.safetensors")
    assert data[slice(*header[VISION]["data_offsets"])] == bytes(range(30))
    expected = cli.evaluate(checkpoint, tokens, packed)["mean_loss"]
    assert cli.evaluate(exported, tokens)["mean_loss"] == pytest.approx(expected, rel=3e-3)


def refusal(directory):
    tokens = cli.DATA / "families" / "llama" / "tokens.h5"
    result = cli.run("eval", "--model", directory, "--tokens", tokens, ranks=2, check=False)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


def fp8_with(change, tmp_path):
    config, tensors, _ = family("minimax-m2-fp8")
    change(tensors)
    return refusal(write(tmp_path / "model", config, tensors))


QUERY = "model.layers.1.self_attn.q_proj.weight"
SCALE = f"{QUERY}_scale_inv"


def test_fp8_without_scales(tmp_path):
    line = fp8_with(lambda tensors: tensors.pop(SCALE), tmp_path)
    assert f"tensor {SCALE} is not in {tmp_path}" in line


def test_fp8_with_scales_of_another_shape(tmp_path):
    line = fp8_with(lambda tensors: tensors.update({SCALE: ("F32", [2, 1], bytes(8))}), tmp_path)
    assert f"tensor {SCALE} of {tmp_path}" in line
    assert "has shape [2, 1]" in line


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan])
def test_fp8_with_a_bad_scale(scale, tmp_path):
    content = np.array([scale], np.float32).tobytes()
    line = fp8_with(lambda tensors: tensors.update({SCALE: ("F32", [1, 1], content)}), tmp_path)
    assert f"tensor {SCALE} of {tmp_path}" in line


def test_fp8_with_a_nan(tmp_path):
    def damage(tensors):
        dtype, shape, content = tensors[QUERY]
        tensors[QUERY] = (dtype, shape, content[:70] + b"\x7f" + content[71:])

    line = fp8_with(damage, tmp_path)
    assert f"tensor {QUERY} of {tmp_path}" in line
    assert "element 70 (row-major) is a NaN" in line


def test_mxfp4_with_an_exponent_of_255(tmp_path):
    config, tensors, _ = family("gpt-oss-mxfp4")
    name = "model.layers.0.mlp.experts.down_proj_scales"
    dtype, shape, content = tensors[name]
    tensors[name] = (dtype, shape, content[:9] + b"\xff" + content[10:])
    line = refusal(write(tmp_path / "model", config, tensors))
    assert f"tensor {name} of {tmp_path}" in line
    assert "block 9 is 255" in line


def test_a_router_for_more_experts(tmp_path):
    config, tensors, _ = family("deepseek-v3")
    name = "model.layers.1.mlp.gate.weight"
    tensors[name] = ("F32", [9, 64], bytes(9 * 64 * 4))
    line = refusal(write(tmp_path / "model", config, tensors))
    assert f"tensor {name} of {tmp_path}" in line
    assert "has shape [9, 64]" in line


@pytest.mark.parametrize("name", ["glm4-moe", "gpt-oss", "ernie4-5-moe"])
def test_more_experts_a_token_than_there_are(name, tmp_path):
    config, tensors, _ = family(name)
    field = "moe_k" if "moe_k" in config else "num_experts_per_tok"
    line = refusal(write(tmp_path / "model", config | {field: 9}, tensors))
    assert f"{tmp_path}/model/config.json: {field} is 9, and there are" in line


def test_a_missing_expert(tmp_path):
    config, tensors, _ = family("deepseek-v3")
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    del tensors[name]
    assert f"tensor {name} is not in {tmp_path}" in refusal(
        write(tmp_path / "model", config, tensors)
    )


def test_stacked_experts_that_are_too_few(tmp_path):
    config, tensors, _ = family("llama4")
    name = "model.layers.1.feed_forward.experts.down_proj"
    _, shape, content = tensors[name]
    shape = [shape[0] - 1, *shape[1:]]
    tensors[name] = ("F32", shape, content[: math.prod(shape) * 4])
    line = refusal(write(tmp_path / "model", config, tensors))
    assert f"tensor {name} of {tmp_path}" in line


@pytest.mark.parametrize(
    "model_type", ["deepseek_v32", "qwen3_next", "nemotron_h", "kimi_linear", "jamba"]
)
def test_families_with_other_kinds_of_blocks_are_refused_by_name(model_type, tmp_path):
    config, tensors, _ = family("llama")
    line = refusal(write(tmp_path / "model", config | {"model_type": model_type}, tensors))
    assert f'model_type is "{model_type}"' in line
    assert "does not compute" in line
