"""One layer alone: losses against numpy, files of both kinds, and what is refused."""

import json

import h5py
import numpy as np
import pytest

import cli

METHODS = ("nearest", "ldlq", "optq", "ldlq-rg", "greedy", "ldl-admm")


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(5)
    inputs = random.standard_normal((400, 96)).cumsum(axis=1) / np.arange(1, 97) ** 0.5
    weights = random.standard_normal((64, 96)).astype(np.float32)
    return weights, inputs.T @ inputs / len(inputs)


@pytest.fixture(scope="module")
def files(problem, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layer")
    np.save(folder / "w.npy", problem[0])
    np.save(folder / "h.npy", problem[1])
    with h5py.File(folder / "layer.h5", "w") as file:
        file["weights"], file["hessian"] = problem
    return folder


def quantize_layer(weights, hessian, *options, check=True):
    return cli.run(
        *("quantize-layer", "--weights", weights, "--hessian", hessian, "--json", *options),
        check=check,
    )


def losses(files, *options):
    return json.loads(quantize_layer(files / "w.npy", files / "h.npy", *options).stdout)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_nearest_on_the_minmax_grid_has_the_loss_that_numpy_computes(files, problem, bits):
    weights, hessian = problem
    low = np.minimum(weights.min(axis=1, keepdims=True), 0)
    high = np.maximum(weights.max(axis=1, keepdims=True), 0)
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    rounded = step * (np.clip(np.round(weights / step) + zero, 0, 2**bits - 1) - zero)

    def loss(x):
        return np.trace(x.astype(float) @ hessian @ x.T.astype(float))

    out = losses(files, "--method", "nearest", "--processing", "baseline", "--bits", bits)
    assert out["proxy_loss"] == pytest.approx(loss(rounded - weights), rel=1e-3)
    assert out["relative_proxy_loss"] == pytest.approx(
        loss(rounded - weights) / loss(weights), rel=1e-3
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_feedback_pays(files, method):
    out = losses(files, "--method", method, "--bits", 3)
    nearest = losses(files, "--method", "nearest", "--bits", 3)
    assert out["method"] == method
    if method != "nearest":
        assert out["relative_proxy_loss"] < nearest["relative_proxy_loss"]


def test_both_kinds_of_files_give_the_same_layer(files):
    from_h5 = quantize_layer(f"{files}/layer.h5:weights", f"{files}/layer.h5:hessian")
    assert json.loads(from_h5.stdout)["digest"] == losses(files)["digest"]


def test_the_name_settles_the_transforms(files):
    assert losses(files, "--name", "a")["digest"] != losses(files, "--name", "b")["digest"]


def broken(files, kind):
    path = files / f"{kind}.npy"
    hessian = np.load(files / "h.npy")
    if kind == "indefinite":
        hessian[40, 40] = -0.9 * np.trace(hessian)
    elif kind == "asymmetric":
        hessian[3, 5] += np.abs(hessian).max()
    elif kind == "nan":
        hessian[3, 5] = np.nan
    elif kind == "small":
        hessian = hessian[:50, :50]
    elif kind == "flat":
        hessian = hessian[0]
    np.save(path, hessian)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    return path


@pytest.mark.parametrize(
    ("kind", "culprit"),
    [
        ("indefinite", "layer down_proj: the Hessian is not positive definite"),
        ("asymmetric", "not symmetric"),
        ("nan", "row 3, column 5"),
        ("small", "50 x 50"),
        ("flat", "2-D"),
        ("truncated", "bytes of data"),
    ],
)
def test_a_bad_hessian_is_one_clear_line(files, kind, culprit):
    result = quantize_layer(
        files / "w.npy",
        broken(files, kind),
        *("--processing", "baseline", "--name", "down_proj"),
        check=False,
    )
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert culprit in errors[0]


def test_a_missing_dataset_is_named(files):
    result = quantize_layer(f"{files}/layer.h5:w", files / "h.npy", check=False)
    assert result.returncode != 0
    assert "there is no dataset 'w'" in result.stderr


def incoherence(vectors):
    return np.abs(vectors).max() * len(vectors) ** 0.5


def test_statistics_are_those_that_numpy_computes(tmp_path):
    random = np.random.default_rng(6)
    inputs = random.standard_normal((40, 96)) * np.geomspace(1, 30, 96)  # fewer tokens than inputs
    weights = random.standard_normal((64, 96)).astype(np.float32)
    hessian = inputs.T @ inputs / len(inputs)
    np.save(tmp_path / "w.npy", weights)
    np.save(tmp_path / "h.npy", hessian)
    out = json.loads(
        quantize_layer(
            *(tmp_path / "w.npy", tmp_path / "h.npy", "--processing", "baseline"),
            *("--statistics", "--bits", 3),
        ).stdout
    )
    values, vectors = np.linalg.eigh(hessian)
    assert out["rank_before"] == out["rank_after"] == 40 / 96
    assert out["rank_1pct_before"] == np.mean(values > 0.01 * values.max())
    # Any basis of the null space will do.
    assert out["mu_h_before"] >= incoherence(vectors[:, -40:]) * (1 - 1e-6)
    assert out["mu_h_before"] <= 96**0.5 * (1 + 1e-6)
    mu_w = np.abs(weights).max() * weights.size**0.5 / np.linalg.norm(weights)
    assert out["mu_w_before"] == pytest.approx(mu_w, rel=1e-5)
    assert out["mu_w_after"] == pytest.approx(mu_w, rel=1e-5)
    damped = hessian + 0.01 * np.mean(np.diag(hessian)) * np.eye(96)
    diagonal = np.diag(np.linalg.cholesky(damped[::-1, ::-1])) ** 2  # from the last column on
    forward = np.diag(np.linalg.cholesky(damped)) ** 2
    trace_d = out["trace_ratio"] * np.trace(damped)
    assert min(abs(trace_d / d.sum() - 1) for d in (diagonal, forward)) < 1e-9
    limit = np.linalg.norm(weights) ** 2 / 96 * trace_d * 4.0**-3
    assert out["rate_distortion_ratio"] == pytest.approx(out["proxy_loss"] / limit, rel=1e-5)


def test_the_transform_lowers_the_incoherence_of_a_spiked_hessian(tmp_path):
    random = np.random.default_rng(7)
    weights = random.standard_normal((64, 256)).astype(np.float32)
    weights[:, 3] *= 40
    np.save(tmp_path / "w.npy", weights)
    np.save(tmp_path / "h.npy", np.diag(np.geomspace(1, 1e3, 256)))
    out = json.loads(quantize_layer(tmp_path / "w.npy", tmp_path / "h.npy", "--statistics").stdout)
    assert out["mu_h_before"] == pytest.approx(16)  # its eigenvectors are the axes
    assert out["mu_h_after"] < 8
    assert out["mu_w_after"] < out["mu_w_before"] / 3
    assert out["rank_before"] == out["rank_after"] == 1


def test_a_ragged_last_group_is_said_beside_the_results(files):
    options = ("--processing", "baseline", "--group-size")
    whole, ragged = (
        quantize_layer(files / "w.npy", files / "h.npy", *options, size) for size in (32, 40)
    )
    assert "last group" not in whole.stderr
    said = "quip: layer layer: 96 columns in groups of 40 leave a last group of 16; engines that"
    assert said in ragged.stderr
    assert json.loads(ragged.stdout)["cols"] == 96
