"""Layers whose Hessian is spread over ranks: the same bits on any number of them."""

import json

import pytest

import cli

OPTIONS = ("--bits", 2, "--samples", 13)


def quantize(name, out, *options, **how):
    return cli.quantize(cli.model(name), out, *OPTIONS, *options, **how)


def digest(name, out, *options, **how):
    return cli.inspect(quantize(name, out, *options, **how))["digest"]


def report(packed):
    return json.loads((packed / "report.json").read_text())


def refused(tmp_path, *options, ranks=2, status=1):
    """The one error line of a run that must fail."""
    result = cli.run(
        *("quantize", "--model", cli.model("opt-micro"), "--tokens", cli.CALIBRATION),
        *("--out", tmp_path / "out", *OPTIONS, *options),
        ranks=ranks,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def every_layer(tmp_path_factory):
    """llama-nano on one rank, all layers wide."""
    return quantize("llama-nano", tmp_path_factory.mktemp("wide") / "out", "--wide", 0)


SHAPES = [(2, 1), (3, 1), (4, 1), (6, 1), (1, 2), (2, 2)]  # ranks, threads


@pytest.mark.parametrize(("ranks", "threads"), SHAPES if cli.THOROUGH else SHAPES[1::2])
def test_same_bits_on_any_number_of_ranks(every_layer, ranks, threads, tmp_path):
    how = {"ranks": ranks, "threads": threads}
    packed = quantize("llama-nano", tmp_path / "out", "--wide", 0, "--threads", threads, **how)
    found, expected = cli.inspect(packed), cli.inspect(every_layer)
    assert found["digest"] == expected["digest"]
    losses = [
        [layer["relative_proxy_loss"] for layer in report["layers"]] for report in (found, expected)
    ]
    assert losses[0] == losses[1]


def test_several_blocks_over_several_ranks(tmp_path):
    """768 inputs are six blocks of 128: grids 2x1, 2x2 and 3x2."""
    wide = ("--wide", 700)
    digests = {digest("opt-micro", tmp_path / f"{r}", *wide, ranks=r) for r in (1, 2, 4, 6)}
    assert len(digests) == 1
    assert report(tmp_path / "6")["wide"] == [
        {"inputs": 768, "grid": "3x2", "block": 128, "cholesky": "blocks"}
    ]


@pytest.mark.parametrize(
    "options",
    [
        ("--true-sequential",),
        ("--method", "nearest"),
        ("--processing", "baseline", "--order", "forward"),
    ],
)
def test_with_other_options(options, tmp_path):
    digests = {
        digest("llama-nano", tmp_path / f"{ranks}", "--wide", 200, *options, ranks=ranks)
        for ranks in (1, 3)
    }
    assert len(digests) == 1


def test_a_scalapack_grid_keeps_its_bits(tmp_path):
    grid = ("--wide", 700, "--process-grid", "2x2")
    digests = {digest("opt-micro", tmp_path / f"{r}", *grid, ranks=r) for r in (4, 6)}
    assert len(digests) == 1
    assert report(tmp_path / "4")["wide"][0]["cholesky"] == "scalapack"
    assert cli.inspect(tmp_path / "4")["options"]["process_grid"] == "2x2"


def test_close_to_the_usual_way(tmp_path):
    """With scales that both know; a wide layer has no candidates to choose from."""
    same = ("--output-scale", "off")
    usual = quantize("llama-nano", tmp_path / "usual", *same)
    every_layer = quantize("llama-nano", tmp_path / "every", "--wide", 0, *same)
    assert report(usual)["wide"] == []
    assert cli.mean_relative_proxy(every_layer) == pytest.approx(
        cli.mean_relative_proxy(usual), rel=0.01
    )
    perplexity = [
        cli.evaluate(cli.model("llama-nano"), packed=packed, samples=64)["perplexity"]
        for packed in (every_layer, usual)
    ]
    assert perplexity[0] == pytest.approx(perplexity[1], rel=0.01)


def test_resumes_on_other_ranks_but_not_with_another_choice(every_layer, tmp_path):
    out = tmp_path / "out"
    first = ("--wide", 0, "--blocks", "0:2")
    quantize("llama-nano", out, *first, ranks=3)
    changed = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION),
        *("--out", out, *OPTIONS, "--resume"),
        check=False,
    )
    assert changed.returncode == 1
    assert "wide" in changed.stderr
    quantize("llama-nano", out, "--wide", 0, "--resume", ranks=2)
    assert cli.inspect(out)["digest"] == cli.inspect(every_layer)["digest"]


def test_grid_that_needs_more_ranks(tmp_path):
    line = refused(tmp_path, "--wide", 700, "--process-grid", "3x2", ranks=4)
    assert "--process-grid 3x2: needs 6 ranks and this job has 4" in line


def test_grid_with_more_rows_than_blocks(tmp_path):
    line = refused(tmp_path, "--wide", 0, "--process-grid", "3x1", ranks=3)
    assert "--process-grid 3x1: layer model.decoder.layers.0" in line
    assert "192 inputs, which are 2 blocks of 128" in line


def test_grid_without_a_wide_layer(tmp_path):
    assert "--process-grid 2x1: no layer has" in refused(tmp_path, "--process-grid", "2x1")


@pytest.mark.parametrize("method", ["optq", "ldlq-rg", "greedy", "ldl-admm"])
def test_methods_that_need_all_of_h(method, tmp_path):
    line = refused(tmp_path, "--wide", 700, "--method", method)
    assert f"--method {method}" in line
    assert "--wide 700" in line


def test_one_layer_by_another_method(tmp_path):
    """An override may take the wide layers out of what the others use."""
    rule = ("--override", "fc2:method=ldlq")
    digest("opt-micro", tmp_path / "out", "--wide", 700, "--method", "optq", *rule, ranks=2)


@pytest.mark.parametrize(
    "options",
    [("--process-grid", "2y2"), ("--process-grid", "0x2"), ("--wide", "-1"), ("--wide", "much")],
)
def test_words_that_are_no_numbers(options, tmp_path):
    assert options[0].removeprefix("--") in refused(tmp_path, *options, ranks=1, status=2)
