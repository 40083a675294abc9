"""`quip eval` against transformers, for every family and option."""

import math

import pytest

import cli
import hf_models


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    ids = hf_models.random_tokens()
    return hf_models.write_tokens(tmp_path_factory.mktemp("tokens") / "random.h5", ids), ids


@pytest.mark.parametrize("name", hf_models.CASES)
def test_mean_loss_equals_transformers(name, tokens, tmp_path):
    file, ids = tokens
    checkpoint = hf_models.make(name, tmp_path)
    expected = hf_models.mean_loss(hf_models.load(checkpoint), ids)
    report = cli.evaluate(checkpoint, file)
    assert report["tokens"] == ids.shape[0] * (ids.shape[1] - 1)
    assert math.log(report["perplexity"]) == pytest.approx(expected, rel=1e-4)
    assert report["mean_loss"] == pytest.approx(expected, rel=1e-4)


def test_sharded_case_has_several_shards(tmp_path):
    hf_models.make("llama-sharded", tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-window", "qwen2-late-window"])
def test_reference_applies_the_window(name, tokens, tmp_path):
    """Else the comparison above would say nothing about windows."""
    checkpoint = hf_models.make(name, tmp_path)
    windowed = hf_models.mean_loss(hf_models.load(checkpoint), tokens[1])
    whole = hf_models.mean_loss(hf_models.load(checkpoint, sliding_window=None), tokens[1])
    assert abs(windowed - whole) > 1e-3 * whole  # ten times the tolerance above


def test_late_window_differs_from_full_window(tokens, tmp_path):
    late = hf_models.make("qwen2-late-window", tmp_path / "late")
    full = hf_models.make("qwen2-window", tmp_path / "full")
    losses = [hf_models.mean_loss(hf_models.load(path), tokens[1]) for path in (late, full)]
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0]
