"""`quip export --format compressed-tensors`: the same weights, as an independent reader decodes
them. Engines themselves read such exports in tests/engines."""

import json

import h5py
import numpy as np
import pytest

import cli
import hf_models
import pack_quantized

PLAIN = ("--processing", "baseline")
OPTQ = ("--method", "optq", "--act-order")


def export(packed, checkpoint, out, form="compressed-tensors", **how):
    arguments = ("export", "--packed", packed, "--model", checkpoint, "--format", form)
    return cli.run(*arguments, "--out", out, **how)


def check(packed, checkpoint, tmp_path, rounding, **how):
    """Decoded weights are those of the bf16 export, but for the rounding of both."""
    out = tmp_path / "exported"
    export(packed, checkpoint, out, **how)
    export(packed, checkpoint, tmp_path / "plain", "bf16")
    plain = {}
    for file in (tmp_path / "plain").glob("*.safetensors"):
        plain |= pack_quantized.arrays(file)
    weights = pack_quantized.decode(out)
    for name, values in weights.items():
        expected = plain[name + ".weight"]
        assert np.all(abs(values - expected) <= rounding * abs(expected)), name
    return out, weights


@pytest.mark.parametrize(
    ("options", "bits", "symmetric", "strategy"),
    [
        ((*PLAIN, "--bits", 4, "--group-size", 16, "--symmetric"), 4, True, "group"),
        ((*PLAIN, "--bits", 3, "--group-size", 32), 3, False, "group"),
        ((*PLAIN, "--bits", 2), 2, False, "channel"),
        ((*PLAIN, "--bits", 8, "--symmetric"), 8, True, "channel"),
        ((*PLAIN, "--bits", 2, "--grid", "incoherent"), 3, True, "channel"),
        ((*PLAIN, "--bits", 4, "--grid", "incoherent"), 5, True, "channel"),
        ((*PLAIN, "--bits", 3, *OPTQ, "--group-size", 16), 3, False, "group"),
    ],
)  # fmt: skip
def test_schemes(options, bits, symmetric, strategy, tmp_path):
    """The model is in fp32, and so are scales: what differs is the rounding to bf16 alone."""
    checkpoint, tokens = cli.family("llama")
    packed = cli.quantize(checkpoint, tmp_path / "packed", *options, "--tokens", tokens)
    out, weights = check(packed, checkpoint, tmp_path, 2**-8, ranks=2)
    assert len(weights) == 14
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    (group,) = config["config_groups"].values()
    assert group["targets"] == ["Linear"] and "lm_head" in config["ignore"]
    assert (group["weights"]["num_bits"], group["weights"]["symmetric"]) == (bits, symmetric)
    assert group["weights"]["strategy"] == strategy


def test_scales_have_the_type_of_the_model(tmp_path):
    checkpoint = hf_models.make("llama-tied", tmp_path / "model", dtype="BF16")
    tokens = hf_models.write_tokens(tmp_path / "random.h5", hf_models.random_tokens())
    options = (*PLAIN, "--bits", 3, "--group-size", 16, "--tokens", tokens)
    packed = cli.quantize(checkpoint, tmp_path / "packed", *options)
    out, _ = check(packed, checkpoint, tmp_path, 2**-7)
    header, _ = pack_quantized.checkpoints.read(out / "model.safetensors")
    assert header["model.layers.0.mlp.up_proj.weight_scale"]["dtype"] == "BF16"
    assert "lm_head.weight" not in header


@pytest.mark.parametrize("name", ["phi3", "mixtral", "deepseek-v3-fp8"])
def test_layers_stored_together_and_experts(name, tmp_path):
    checkpoint, tokens = cli.family(name)
    options = (*PLAIN, "--bits", 4, "--group-size", 8, "--symmetric", "--tokens", tokens)
    packed = cli.quantize(checkpoint, tmp_path / "packed", *options)
    out, weights = check(packed, checkpoint, tmp_path, 2**-8, ranks=3)
    layers = {layer["name"] for layer in cli.inspect(packed)["layers"]}
    fused = {"self_attn.qkv_proj", "mlp.gate_up_proj"} if name == "phi3" else set()
    assert {module for module in weights if module not in layers} == {
        f"model.layers.{block}.{module}" for block in (0, 1) for module in fused
    }
    ignored = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    assert (name == "mixtral") == ("model.layers.0.block_sparse_moe.gate" in ignored)


def test_mixed_bits_are_groups_of_their_own(tmp_path):
    checkpoint, tokens = cli.family("llama")
    rules = ("--override", "down_proj:bits=8", "--override", "layers.0.*q_proj:bits=4")
    options = (*PLAIN, "--bits", 3, "--group-size", 16, *rules, "--tokens", tokens)
    packed = cli.quantize(checkpoint, tmp_path / "packed", *options)
    out, _ = check(packed, checkpoint, tmp_path, 2**-8)
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    targets = {
        group["weights"]["num_bits"]: group["targets"] for group in config["config_groups"].values()
    }
    assert targets[8] == [r"re:.*\.down_proj$"]
    assert targets[4] == [r"re:.*layers\.0\.self_attn\.q_proj$"]
    assert r"re:.*layers\.1\.self_attn\.q_proj$" in targets[3]


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", ("--codebook", "trellis"), "they have trellis codes; quantize with --for vllm"),
        ("llama", ("--transform", "hadamard"), "they are transformed (--transform)"),
        ("llama", (*PLAIN, "--rescale", "on"), "their inputs are scaled (--rescale on)"),
        ("llama", (*PLAIN, "--override", "q_proj:bits=8,grid=incoherent"), "takes 9 bits"),
        ("llama", (*PLAIN, "--group-size", 48), "inputs are no multiple of --group-size 48"),
        ("gpt-oss", PLAIN, "gate_up_proj, in which layers stand neither alone nor one after"),
        ("phi3", (*PLAIN, "--skip", "k_proj"), "weight, of which only a part is quantized"),
        ("phi3", (*PLAIN, "--override", "k_proj:bits=4"), "whose parts"),
    ],
)  # fmt: skip
def test_misfits_are_named(family, options, message, tmp_path):
    checkpoint, tokens = cli.family(family)
    packed = cli.quantize(
        checkpoint, tmp_path / "packed", "--bits", 3, *options, "--tokens", tokens
    )
    refused = export(packed, checkpoint, tmp_path / "out", ranks=2, check=False)
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if "error:" in line]
    assert message in line and "--format compressed-tensors cannot hold" in line
    assert "--format bf16" in line
    assert not (tmp_path / "out").exists()


def test_settings_for_an_engine(tmp_path):
    """They are printed, options that are given win, and scales reach the engine as they were
    stored: bfloat16 holds them."""
    checkpoint = hf_models.make("llama-tied", tmp_path / "model", dtype="BF16")
    tokens = hf_models.write_tokens(tmp_path / "random.h5", hf_models.random_tokens())
    packed = tmp_path / "packed"
    job = ("quantize", "--model", checkpoint, "--tokens", tokens, "--out", packed)
    says = cli.run(*job, "--for", "vllm", "--group-size", 8, "--bits", 3).stdout
    lines = {" ".join(line.split()) for line in says.splitlines()}
    assert {"bits 3", "transform none", "symmetric on", "group size 8", "scale type bf16"} <= lines
    out = tmp_path / "exported"
    export(packed, checkpoint, out)
    tensors = pack_quantized.arrays(out / "model.safetensors")
    with h5py.File(packed / "blocks" / "block_00000.h5") as file:
        stored = file["model.layers.0.mlp.down_proj/scale"][:]
    assert stored.dtype == np.float16
    exported = tensors["model.layers.0.mlp.down_proj.weight_scale"]
    np.testing.assert_array_equal(exported.ravel(), stored.ravel().astype(np.float32))
    layers = cli.inspect(packed)["layers"]
    assert all(layer["stored_bytes"] * 8 == 5 * layer["rows"] * layer["cols"] for layer in layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("vllm",), "down_proj: --format compressed-tensors, which --for asks for, cannot hold it"),
        (("vllm", "--rescale", "on", "--group-size", 8), "their inputs are scaled"),
        (("exllamav3", "--override", "o_proj:codebook=scalar"), "their codes are scalar"),
        (("llama",), "--for llama: must be one of vllm, sglang, exllamav3"),
    ],
)
def test_engines_refuse_before_the_run(options, message, tmp_path):
    out = tmp_path / "out"
    job = ("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION)
    job += ("--out", out, "--codebook", "auto")
    refused = cli.run(*job, "--for", *options, check=False)
    assert refused.returncode != 0 and message in refused.stderr
    assert not out.exists()


def test_groups_that_tensor_parallel_engines_would_cut(tmp_path):
    checkpoint, tokens = cli.family("llama")
    plan = cli.run("plan", "--model", checkpoint, "--for", "vllm", "--group-size", 32)
    assert "groups of 32 of its 128 inputs can be cut among 4 at most" in plan.stdout
