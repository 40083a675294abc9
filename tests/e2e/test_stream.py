"""Targets that make up for what was lost before a layer: two streams of hidden states."""

import json

import pytest

import cli
import hf_models

SETUP = ("--bits", 2, "--samples", 16)
STREAM = ("--target", "stream")
MODEL = cli.model("llama-nano")
ON_HOST = cli.QUIP.with_name("quip_cuda_on_host")


def report_of(packed):
    return json.loads((packed / "report.json").read_text())


def digest_of(packed):
    return cli.inspect(packed)["digest"]


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    out = tmp_path_factory.mktemp("streamed") / "out"
    return cli.quantize(MODEL, out, *SETUP, *STREAM)


def test_no_share_of_anything_is_true_sequential(tmp_path):
    none = cli.quantize(MODEL, tmp_path / "none", *SETUP, *STREAM, "--drift", 0, "--residual", 0)
    sequential = cli.quantize(MODEL, tmp_path / "sequential", *SETUP, "--true-sequential")
    assert digest_of(none) == digest_of(sequential)
    assert all("target_shift" not in layer for layer in report_of(none)["layers"])


def test_targets_are_moved_where_they_can_be(streamed, tmp_path):
    out = cli.quantize(MODEL, tmp_path / "auto", *SETUP, "--target", "auto")
    assert digest_of(out) == digest_of(streamed)
    paper = cli.quantize(MODEL, tmp_path / "paper", *SETUP, "--paper", "--target", "auto")
    assert "stream_distances" not in report_of(paper)


def test_models_that_cannot_be_moved_go_without(tmp_path):
    checkpoint, tokens = cli.family("gemma2")
    setup = ("--bits", 3, "--tokens", tokens)
    out = tmp_path / "auto"
    job = ("quantize", "--model", checkpoint, "--out", out, *setup, "--target", "auto")
    assert "no layer of this model adds to the residual as it is: --target layer" in (
        cli.run(*job).stderr
    )
    assert "stream_distances" not in report_of(out)
    layer = cli.quantize(checkpoint, tmp_path / "layer", *setup)
    assert digest_of(out) == digest_of(layer)


def test_what_is_scaled_before_it_is_added_is_moved(tmp_path):
    checkpoint, _ = cli.family("granite")
    tokens = hf_models.many_tokens(tmp_path / "many.h5")
    setup = ("--bits", 2, "--tokens", tokens, *STREAM)
    moved = report_of(cli.quantize(checkpoint, tmp_path / "moved", *setup))
    plain = cli.quantize(checkpoint, tmp_path / "plain", *setup, "--drift", 0, "--residual", 0)
    without = report_of(plain)["stream_distances"]
    pairs = zip(moved["stream_distances"], without, strict=True)
    assert all(0 < ours < theirs for ours, theirs in pairs)


def test_the_streams_come_closer_and_the_loss_falls(streamed, tmp_path):
    plain = cli.quantize(MODEL, tmp_path / "plain", *SETUP, *STREAM, "--drift", 0, "--residual", 0)
    without, distances = (report_of(p)["stream_distances"] for p in (plain, streamed))
    assert len(distances) == 4
    assert all(0 < ours < 0.85 * theirs for ours, theirs in zip(distances, without, strict=True))
    ours, theirs = (
        cli.evaluate(MODEL, packed=p, samples=48)["mean_loss"] for p in (streamed, plain)
    )
    assert ours < theirs


def test_what_is_moved_says_by_how_much(streamed):
    layers = {layer["name"]: layer for layer in report_of(streamed)["layers"]}
    for name, layer in layers.items():
        first = ".layers.0." in name and name.rsplit(".", 1)[1] in ("q_proj", "k_proj", "v_proj")
        # Nothing is lost before the first layers, whose streams are the same.
        assert ("target_shift" in layer) != first, name
        if not first:
            assert 0 < layer["target_shift"] < 1


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("llama-nano", ("--wide", 300)),
        ("opt-micro", ("--method", "optq", "--processing", "baseline", "--drift", 0.5)),
    ],
)
def test_same_bits_on_any_ranks_and_threads(model, options, tmp_path):
    setup = ("--bits", 3, "--samples", 5, *STREAM, *options)
    expected = digest_of(cli.quantize(cli.model(model), tmp_path / "1", *setup))
    for ranks, threads in ((2, 2), (3, 1)):
        out = tmp_path / f"{ranks}"
        cli.quantize(cli.model(model), out, *setup, ranks=ranks, threads=threads)
        assert digest_of(out) == expected


def test_same_bits_with_trellis_codes(tmp_path):
    checkpoint, _ = cli.family("llama")
    tokens = hf_models.many_tokens(tmp_path / "many.h5")
    setup = ("--bits", 2, "--codebook", "trellis", "--tokens", tokens, *STREAM)
    one = cli.quantize(checkpoint, tmp_path / "one", *setup)
    three = cli.quantize(checkpoint, tmp_path / "three", *setup, ranks=3)
    assert digest_of(one) == digest_of(three)
    assert any(layer.get("target_shift", 0) > 0 for layer in report_of(one)["layers"])


@pytest.mark.parametrize("keep", ["none", "last"])
def test_both_streams_are_resumed(keep, streamed, tmp_path):
    options = (*SETUP, *STREAM, "--keep-states", keep)
    out = tmp_path / "out"
    cli.run(
        *("quantize", "--model", MODEL, "--tokens", cli.CALIBRATION, "--out", out),
        *(*options, "--blocks", "0:2"),
    )
    manifest = json.loads((out / "manifest.json").read_text())
    kept = [2 * 16] if keep == "last" else []  # samples, in both streams
    assert [state["samples"] for state in manifest["states"]] == kept
    cli.quantize(MODEL, out, *options, "--resume", ranks=3)
    assert digest_of(out) == digest_of(streamed)
    assert report_of(out)["stream_distances"] == report_of(streamed)["stream_distances"]


def test_streams_stay_the_same_where_nothing_is_quantized(tmp_path):
    out = tmp_path / "out"
    cli.quantize(MODEL, out, *SETUP, *STREAM, "--skip", r"layers\.[01]\.")
    distances = report_of(out)["stream_distances"]
    assert distances[:2] == [0, 0]
    assert all(distance > 0 for distance in distances[2:])


def test_the_second_stream_costs_one_more_forward_a_block(tmp_path):
    plain = report_of(cli.quantize(MODEL, tmp_path / "plain", *SETUP))["phases"]
    out = tmp_path / "out"
    streams = report_of(cli.quantize(MODEL, out, *SETUP, *STREAM, "--drift", 0))["phases"]
    blocks = 4
    # After the last block nothing is forwarded.
    block = plain["forward"]["flops"] / (blocks - 1)
    assert streams["capture"]["flops"] == pytest.approx(2 * blocks * block, rel=1e-12)
    assert streams["forward"]["flops"] == 0


def test_too_few_tokens_move_nothing(tmp_path):
    few = ("--bits", 2, "--samples", 1)  # 256 tokens
    out = tmp_path / "out"
    ran = cli.run(
        *("quantize", "--model", MODEL, "--tokens", cli.CALIBRATION, "--out", out, *few, *STREAM)
    )
    assert "256 calibration tokens are fewer than four for each of up to 352 inputs" in ran.stderr
    assert all("target_shift" not in layer for layer in report_of(out)["layers"])


def test_blocks_that_norm_what_they_add_are_named(tmp_path):
    checkpoint, _ = cli.family("gemma2")
    tokens = hf_models.many_tokens(tmp_path / "many.h5")
    out = tmp_path / "out"
    ran = cli.run(
        *("quantize", "--model", checkpoint, "--tokens", tokens, "--out", out, "--bits", 2),
        *STREAM,
    )
    assert "in 2 of 2 blocks no layer adds to the residual as it is" in ran.stderr
    assert all("target_shift" not in layer for layer in report_of(out)["layers"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "stream", "--drift", 1.5), "--drift 1.5: must be 0 to 1"),
        (("--residual", 0.5), "--drift and --residual belong to --target stream"),
    ],
)
def test_mistakes_are_named(options, message):
    refused = cli.run(
        *("quantize", "--model", MODEL, "--tokens", cli.CALIBRATION, "--out", "/nowhere"),
        *options,
        check=False,
    )
    assert refused.returncode == 2
    assert message in refused.stderr


@pytest.mark.skipif(not ON_HOST.exists(), reason="built with QUIP_CUDA: no emulation")
@pytest.mark.parametrize("name", ["llama", "mixtral"] if cli.THOROUGH else ["mixtral"])
def test_streams_on_a_device(name, tmp_path, monkeypatch):
    checkpoint, _ = cli.family(name)
    tokens = hf_models.many_tokens(tmp_path / "many.h5", samples=12)
    options = ("--bits", 3, *STREAM, "--tokens", tokens)
    expected = cli.quantize(checkpoint, tmp_path / "cpu", *options)
    monkeypatch.setattr(cli, "QUIP", ON_HOST)
    out = tmp_path / "cuda"
    cli.quantize(checkpoint, out, *options, "--backend", "cuda", timeout=280)
    ours, theirs = (report_of(p)["stream_distances"] for p in (out, expected))
    assert ours == pytest.approx(theirs, rel=0.2)
