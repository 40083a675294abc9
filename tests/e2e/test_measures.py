"""What calibration never saw, and losses that nobody can know: what becomes of them."""

import json
import math
import re

import h5py
import numpy as np
import pytest

import checkpoints
import cli

SHORT = ("--samples", 2, "--progress", "none")
DOWN = "model.layers.2.mlp.down_proj"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def tensor(directory, name):
    """A bf16 tensor of a checkpoint of one file."""
    header, data = checkpoints.read(directory / "model.safetensors")
    begin, end = header[name]["data_offsets"]
    bits = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
    return bits.view("<f4").reshape(header[name]["shape"])


def exported(directory, name):
    for file in directory.glob("*.safetensors"):
        header, data = checkpoints.read(file)
        if name in header:
            begin, end = header[name]["data_offsets"]
            bits = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
            return bits.view("<f4").reshape(header[name]["shape"])
    raise AssertionError(f"{name} is nowhere")


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """llama-nano with 100 rows of gate_proj zero: as many inputs of down_proj are always zero."""
    model = checkpoints.copy(cli.model("llama-nano"), tmp_path_factory.mktemp("dead") / "model")
    checkpoints.overwrite(model, "model.layers.2.mlp.gate_proj.weight", 0, bytes(100 * 128 * 2))
    return model


def test_dead_inputs_come_back_as_they_were(dead, tmp_path):
    out = tmp_path / "out"
    run = cli.run(
        *("quantize", "--model", dead, "--tokens", cli.CALIBRATION, "--out", out),
        *("--bits", 2, *SHORT),
    )
    assert f"dead inputs, zero on all calibration tokens: {DOWN} (100)\n" in run.stdout
    report = json.loads((out / "report.json").read_text())
    assert {x["name"]: x["dead_channels"] for x in report["layers"]}[DOWN] == 100
    cli.run("export", "--packed", out, "--model", dead, "--out", tmp_path / "export")
    before = tensor(dead, DOWN + ".weight")
    change = exported(tmp_path / "export", DOWN + ".weight") - before

    def norm(x):
        return np.linalg.norm(x[:, :100])

    assert norm(change) < 1.5 * norm(before)  # 49 times as large, it once was
    # The calibration tokens' own loss: 3.97 before, 4.08 if nothing is rescaled.
    run = cli.run(*("eval", "--packed", out, "--tokens", cli.CALIBRATION, "--samples", 2, "--json"))
    assert json.loads(run.stdout)["mean_loss"] < 4.2


def layer_report(tmp_path, weights, hessian, *options):
    np.save(tmp_path / "w.npy", weights.astype(np.float32))
    np.save(tmp_path / "h.npy", hessian)
    files = ("--weights", tmp_path / "w.npy", "--hessian", tmp_path / "h.npy")
    return json.loads(cli.run("quantize-layer", *files, "--json", *options).stdout)


RANDOM = np.random.default_rng(11)
WEIGHTS = RANDOM.standard_normal((64, 96))
ALIKE = RANDOM.standard_normal((1, 96))  # the only input there is
ACROSS = WEIGHTS - WEIGHTS @ ALIKE.T @ ALIKE / (ALIKE @ ALIKE.T)  # its product with that is 0
UNKNOWN = {
    "no input": (WEIGHTS, np.zeros((96, 96)), "all inputs are zero on the calibration tokens"),
    "no weight": (0 * WEIGHTS, np.eye(96), "all weights are zero"),
    "hardly a weight": (1e-36 * WEIGHTS, np.eye(96), "too small beside the damping"),
    "no output": (ACROSS, ALIKE.T @ ALIKE, "too small beside the damping"),
}


@pytest.mark.parametrize("processing", ["incoherence", "baseline"])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_loss_that_cannot_be_known_is_null_with_the_reason(kind, processing, tmp_path):
    weights, hessian, reason = UNKNOWN[kind]
    out = layer_report(tmp_path, weights, hessian, "--processing", processing)
    assert out["relative_proxy_loss"] is None and out["proxy_loss"] is None
    assert out["rate_distortion_ratio"] is None
    assert reason in out["unmeasured"]


def test_directions_are_those_that_the_inputs_span(tmp_path):
    assert layer_report(tmp_path, WEIGHTS, np.zeros((96, 96)))["directions"] == 0
    assert 0.5 < layer_report(tmp_path, WEIGHTS, ALIKE.T @ ALIKE)["directions"] < 2
    assert 85 < layer_report(tmp_path, WEIGHTS, np.eye(96))["directions"] <= 96.01


def test_equal_tokens_and_few_tokens_are_said(tmp_path):
    with h5py.File(tmp_path / "equal.h5", "w") as file:
        file["input_ids"] = np.full((1, 8), 77, np.int32)
    out = tmp_path / "out"
    run = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", tmp_path / "equal.h5"),
        *("--out", out, "--progress", "none"),
    )
    assert "8 calibration tokens for layers of up to 352 inputs" in run.stderr
    assert "too much alike to judge losses by" in run.stdout


def test_an_ordinary_run_warns_of_nothing_and_names_its_worst_layers(tmp_path):
    out = tmp_path / "out"
    run = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION),
        *("--out", out, *SHORT),
    )
    assert "quip:" not in run.stderr and not re.search(
        "alike|far more|no loss|zero on all", run.stdout
    )
    layers = json.loads((out / "report.json").read_text())["layers"]
    worst = sorted(layers, key=lambda layer: -layer["relative_proxy_loss"])[:3]
    text = ", ".join(f"{x['name']} ({x['relative_proxy_loss']:.4g})" for x in worst)
    assert text in run.stdout and text in cli.run("inspect", out).stdout


def test_a_layer_far_beyond_the_others_is_named(tmp_path):
    out = tmp_path / "out"
    rule = "layers.2.mlp.down_proj:transform=none,rho=50"
    run = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION),
        *("--out", out, "--override", rule, *SHORT),
    )
    lines = [line for line in run.stdout.splitlines() if "rate-distortion" in line]
    assert len(lines) == 1 and DOWN in lines[0] and "layers.1" not in lines[0]


def test_inspect_shows_bits_per_weight_and_mean_loss_in_columns_that_hold(tmp_path):
    out = cli.quantize(cli.model("llama-nano"), tmp_path / "out", "--bits", 3, *SHORT)
    stored = weights = 0
    for block in out.glob("blocks/*.h5"):
        with h5py.File(block) as file:
            for layer in file.values():
                stored += sum(dataset.nbytes for dataset in layer.values())
                weights += int(layer.attrs["rows"]) * int(layer.attrs["cols"])
    report = cli.inspect(out)
    assert report["bits_per_weight"] == pytest.approx(8 * stored / weights)
    losses = [layer["relative_proxy_loss"] for layer in report["layers"]]
    assert report["mean_relative_proxy_loss"] == pytest.approx(math.fsum(losses) / len(losses))
    text = cli.run("inspect", out).stdout
    assert f"bits per weight {8 * stored / weights:.3f}" in text
    assert "true_sequential false" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("model.layers")]
    assert len(rows) == 28 and all(len(row) == 6 for row in rows)


def test_a_spoilt_row_that_no_token_reads_is_an_error(tmp_path):
    model = checkpoints.copy(cli.model("llama-nano"), tmp_path / "model")
    with h5py.File(cli.CALIBRATION) as file:
        row = next(i for i in range(4096) if i not in set(file["input_ids"][:2].flat))
    checkpoints.overwrite(model, EMBEDDING, (row * 128 + 5) * 2, b"\xc0\x7f")  # NaN
    run = cli.run(
        *("quantize", "--model", model, "--tokens", cli.CALIBRATION, "--out", tmp_path / "out"),
        *SHORT,
        ranks=2,
        check=False,
    )
    assert run.returncode == 1
    assert f"tensor {EMBEDDING}" in run.stderr and f"row {row} is not finite" in run.stderr


def with_config(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return directory


def test_a_head_of_its_own_counts_whatever_config_ties(tmp_path):
    source = cli.model("llama-nano")  # untied
    tied = with_config(checkpoints.copy(source, tmp_path / "tied"), tie_word_embeddings=True)
    said = "lm_head.weight differs from the embedding"
    few = ("--samples", 2)
    assert loss_of(tied, said, *few) == loss_of(source, None, *few)
    packed = cli.quantize(tied, tmp_path / "packed", *SHORT)
    plain = cli.quantize(source, tmp_path / "plain", *SHORT)
    assert loss_of(tied, said, *few, packed=packed) == loss_of(source, None, *few, packed=plain)
    cli.run("export", "--packed", packed, "--model", tied, "--out", tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_a_head_that_is_the_embedding_stays_tied(tmp_path):
    model = checkpoints.copy(cli.model("llama-nano"), tmp_path / "equal")
    header, data = checkpoints.read(model / "model.safetensors")
    begin, end = header[EMBEDDING]["data_offsets"]
    checkpoints.overwrite(model, HEAD, 0, data[begin:end])
    with_config(model, tie_word_embeddings=True)
    loss_of(model, None, "--samples", 2)
    packed = cli.quantize(model, tmp_path / "packed", *SHORT)
    cli.run("export", "--packed", packed, "--model", model, "--out", tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True


def loss_of(model, said, *options, packed=None):
    """Mean loss on the evaluation tokens; `said` is what stderr has to hold, None: nothing."""
    extra = () if packed is None else ("--packed", packed)
    run = cli.run("eval", "--model", model, *extra, "--tokens", cli.EVALUATION, "--json", *options)
    assert said in run.stderr if said else "differs" not in run.stderr
    return json.loads(run.stdout)["mean_loss"]


def test_states_larger_than_the_model_are_not_kept(tmp_path):
    many = ("--bits", 2, "--samples", 30, "--rho", 1.6, "--progress", "none")  # 3.9 of 3.6 MB
    cli.quantize(cli.model("llama-nano"), tmp_path / "whole", "--keep-states", "last", *many)
    out = tmp_path / "out"
    run = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION),
        *("--out", out, "--blocks", "0:2", *many),
    )
    assert "would take more room than the model" in run.stderr
    assert not list(out.glob("states/*"))
    cli.quantize(cli.model("llama-nano"), out, "--resume", *many, ranks=2)
    assert cli.inspect(out)["digest"] == cli.inspect(tmp_path / "whole")["digest"]
