"""`quip eval --against`: how far predictions are from another model's."""

import json

import pytest

import checkpoints
import cli
import hf_models

# By transformers 5.24 in fp32 and torch's softmax in fp64, on the tokens of llama: model,
# reference, mean KL(reference || model), agreement of likeliest tokens, both losses. Gemma caps its
# logits.
PAIRS = [
    ("llama-yarn", "llama", 4.026095742425352, 0.0, 7.658892988813294, 7.580272687996275),
    ("llama", "gemma2", 3.757693755079225, 1 / 92, 7.580272687996275, 7.512067484471748),
]


def compare(model, against, tokens, *options, **how):
    arguments = ("eval", "--model", model, "--against", against, "--tokens", tokens, *options)
    return cli.run(*arguments, "--progress", "none", **how)


@pytest.mark.parametrize(("model", "against", "divergence", "agreement", "ours", "theirs"), PAIRS)
def test_as_transformers_has_it(model, against, divergence, agreement, ours, theirs):
    (checkpoint, _), (reference, _) = cli.family(model), cli.family(against)
    _, tokens = cli.family("llama")
    texts = [
        compare(checkpoint, reference, tokens, "--json", ranks=ranks, threads=threads).stdout
        for ranks, threads in ((1, 2), (3, 1))
    ]
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["mean_loss"] == pytest.approx(ours, rel=1e-6)
    assert found["tokens"] == 92
    assert found["against"]["mean_loss"] == pytest.approx(theirs, rel=1e-6)
    assert found["against"]["divergence"] == pytest.approx(divergence, rel=1e-6)
    assert found["against"]["agreement"] == pytest.approx(agreement)


def test_a_packed_model_beside_its_own(quantized):
    packed = quantized("llama-nano", "--bits", 4, "--samples", 8)
    options = ("--samples", 16, "--packed", packed)
    model = cli.model("llama-nano")
    says = compare(model, model, cli.EVALUATION, *options).stdout
    found = json.loads(compare(model, model, cli.EVALUATION, *options, "--json").stdout)
    plain = cli.evaluate(model, packed=packed, samples=16)
    assert found["mean_loss"] == pytest.approx(plain["mean_loss"], rel=1e-6)
    assert 0 < found["against"]["divergence"] < 0.1
    assert 0.8 < found["against"]["agreement"] < 1
    assert f"KL divergence {found['against']['divergence']:.6f} nats a token" in says
    assert f"top-1 agreement {100 * found['against']['agreement']:.2f} %" in says


def test_a_model_is_as_it_is():
    model = cli.model("llama-nano")
    found = json.loads(compare(model, model, cli.EVALUATION, "--samples", 2, "--json").stdout)
    assert found["against"]["divergence"] == pytest.approx(0, abs=1e-12)
    assert found["against"]["agreement"] == 1
    assert found["against"]["perplexity"] == found["perplexity"]


def test_another_vocabulary_is_named():
    checkpoint, tokens = cli.family("llama")
    refused = compare(checkpoint, cli.model("llama-nano"), tokens, ranks=2, check=False)
    assert refused.returncode == 1
    assert "tokens in its vocabulary, and the model has 160" in refused.stderr


def test_another_checkpoint_may_be_damaged(tmp_path):
    checkpoint, tokens = cli.family("llama")
    damaged = checkpoints.copy(checkpoint, tmp_path / "damaged")
    hf_models.edit_config(damaged, hidden_size=72)
    refused = compare(checkpoint, damaged, tokens, check=False)
    assert refused.returncode == 1 and str(damaged) in refused.stderr
