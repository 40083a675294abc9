"""`quip eval` against losses that transformers computed once, for every family and option."""

import json
import math

import pytest

import cli
import hf_models

REFERENCE = json.loads((cli.DATA / "transformers.json").read_text())["cases"]
FAMILIES = sorted(folder.name for folder in (cli.DATA / "families").iterdir())


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    ids = hf_models.random_tokens()
    return hf_models.write_tokens(tmp_path_factory.mktemp("tokens") / "random.h5", ids), ids


@pytest.mark.parametrize("name", hf_models.CASES)
def test_mean_loss_equals_transformers(name, tokens, tmp_path):
    file, ids = tokens
    checkpoint = hf_models.make(name, tmp_path)
    expected = REFERENCE[name]
    assert hf_models.digest(checkpoint) == expected["weights"], "changed: run tests/references.py"
    report = cli.evaluate(checkpoint, file)
    assert report["tokens"] == ids.shape[0] * (ids.shape[1] - 1)
    assert math.log(report["perplexity"]) == pytest.approx(expected["mean_loss"], rel=1e-4)
    assert report["mean_loss"] == pytest.approx(expected["mean_loss"], rel=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_loss_of_a_family_equals_transformers(name):
    """A directory with expected.json is all that a new family needs here."""
    folder = cli.DATA / "families" / name
    expected = json.loads((folder / "expected.json").read_text())
    report = cli.evaluate(folder, folder / "tokens.h5")
    assert report["tokens"] == expected["predicted_tokens"]
    assert report["mean_loss"] == pytest.approx(expected["mean_loss"], rel=1e-4)


@pytest.mark.parametrize("name_of_type", ["rope_type", "type"])
def test_yarn_in_its_older_spellings(name_of_type, tmp_path):
    folder = cli.DATA / "families" / "llama-yarn"
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope[name_of_type] = rope.pop("rope_type")
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": rope}))
    assert cli.evaluate(tmp_path, folder / "tokens.h5") == cli.evaluate(
        folder, folder / "tokens.h5"
    )


def test_sharded_case_has_several_shards(tmp_path):
    hf_models.make("llama-sharded", tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1


@pytest.mark.parametrize(
    "name", ["mistral-window", "mistral-alternating", "qwen2-window", "qwen2-late-window"]
)
def test_reference_applies_the_window(name):
    """Else the comparison above would say nothing about windows."""
    windowed, whole = (REFERENCE[name][key] for key in ("mean_loss", "without_window"))
    assert abs(windowed - whole) > 1e-3 * whole  # ten times the tolerance above


def test_late_window_differs_from_full_window():
    late, full = (REFERENCE[f"qwen2-{name}"]["mean_loss"] for name in ("late-window", "window"))
    assert abs(late - full) > 1e-3 * late
