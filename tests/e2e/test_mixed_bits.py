"""`--bits 2.5`: bits by layer, measured."""

import json
import re

import pytest

import cli

MODEL = cli.model("llama-nano")
SETUP = ("--samples", 8)


def bits_of(packed):
    return {layer["name"]: layer["bits"] for layer in cli.inspect(packed)["layers"]}


def mean_of(packed):
    layers = cli.inspect(packed)["layers"]
    weights = [layer["rows"] * layer["cols"] for layer in layers]
    return sum(w * layer["bits"] for w, layer in zip(weights, layers, strict=True)) / sum(weights)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return cli.quantize(MODEL, tmp_path_factory.mktemp("mixed") / "out", *SETUP, "--bits", 2.5)


def test_better_than_the_mean_of_whole_numbers(mixed, quantized):
    whole = [quantized("llama-nano", *SETUP, "--bits", bits) for bits in (2, 3)]
    losses = [cli.evaluate(MODEL, packed=p, samples=64)["mean_loss"] for p in (*whole, mixed)]
    assert losses[2] < (losses[0] + losses[1]) / 2
    assert 2.45 < mean_of(mixed) <= 2.5
    bits = bits_of(mixed)
    assert set(bits.values()) <= {2, 3, 4}
    for name, width in bits.items():  # engines fuse layers with one input
        for first, other in (("q_proj", "k_proj"), ("q_proj", "v_proj"), ("gate_proj", "up_proj")):
            if name.endswith(first):
                assert bits[name.replace(first, other)] == width
    manifest = json.loads((mixed / "manifest.json").read_text())
    assert manifest["bits_by_layer"] == bits and manifest["options"]["mean_bits"] == 2.5


def test_same_bits_on_any_ranks(mixed, tmp_path):
    out = tmp_path / "out"
    cli.quantize(MODEL, out, *SETUP, "--bits", 2.5, ranks=3, threads=2)
    assert cli.inspect(out)["digest"] == cli.inspect(mixed)["digest"]


def test_resumed_with_the_bits_that_were_chosen(mixed, tmp_path):
    out = tmp_path / "out"
    job = (*SETUP, "--bits", 2.5)
    cli.quantize(MODEL, out, *job, "--blocks", "0:2")
    tokens = ("--tokens", cli.CALIBRATION, "--out", out)
    refused = cli.run(
        "quantize", "--model", MODEL, *tokens, *SETUP, "--bits", 2.25, "--resume", check=False
    )
    assert "options.mean_bits: 2.5 there, 2.25 now" in refused.stderr
    says = cli.run(
        "quantize", "--model", MODEL, *tokens, *job, "--resume", "--progress", "lines", ranks=2
    )
    assert "sensitivity" not in says.stderr
    assert cli.inspect(out)["digest"] == cli.inspect(mixed)["digest"]
    assert cli.evaluate(MODEL, packed=out, samples=2)["tokens"] == 510


def test_overrides_keep_their_bits(tmp_path):
    out = tmp_path / "out"
    rules = ("--override", "down_proj:bits=8", "--skip", "layers.0.*q_proj")
    cli.quantize(MODEL, out, *SETUP, "--bits", 3, "--mixed-bits", *rules)
    bits = bits_of(out)
    assert {w for name, w in bits.items() if name.endswith("down_proj")} == {8}
    others = [layer for layer in cli.inspect(out)["layers"] if "down_proj" not in layer["name"]]
    weights = [layer["rows"] * layer["cols"] for layer in others]
    mean = sum(w * layer["bits"] for w, layer in zip(weights, others, strict=True)) / sum(weights)
    assert 2.9 < mean <= 3
    assert "model.layers.0.self_attn.q_proj" not in bits


def test_trellis_codes_take_any_width(tmp_path):
    checkpoint, tokens = cli.family("llama")
    options = ("--codebook", "trellis", "--bits", 1.5, "--tokens", tokens)
    out = cli.quantize(checkpoint, tmp_path / "out", *options)
    assert 1.4 < mean_of(out) <= 1.5 and 1 in bits_of(out).values()


def test_a_plan_has_the_mean(tmp_path):
    file = tmp_path / "plan.json"
    cli.run("plan", "--model", MODEL, "--samples", 8, "--bits", 2.5, "--json", file)
    written = json.loads(file.read_text())["phases"]["write"]["bytes_written"]
    sizes = []
    for bits in (2, 3):
        cli.run("plan", "--model", MODEL, "--samples", 8, "--bits", bits, "--json", file)
        sizes.append(json.loads(file.read_text())["phases"]["write"]["bytes_written"])
    assert sizes[0] < written < sizes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MODEL, "--bits", 0.5), "--bits 0.5: must be 1"),
        ((MODEL, "--bits", 1.5), "--bits 1: must be 2, 3, 4 or 8"),
        ((cli.family("mixtral")[0], "--bits", 2.5), "--bits 2.5: bits of experts are not measured"),
    ],
)
def test_mistakes_are_named(arguments, message, tmp_path):
    checkpoint, *options = arguments
    tokens = cli.family("mixtral")[1] if checkpoint != MODEL else cli.CALIBRATION
    job = ("quantize", "--model", checkpoint, "--tokens", tokens, "--out", tmp_path / "out")
    refused = cli.run(*job, *options, ranks=2, check=False)
    assert refused.returncode != 0
    lines = [line for line in refused.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and re.search(re.escape(message), lines[0]), refused.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
