"""The same bits and the same digits, whatever the number of ranks and threads."""

import itertools

import pytest

import cli

SHAPES = [(2, 1), (3, 1), (4, 1), (6, 1), (8, 1), (1, 2), (2, 2)]
OPTIONS = {
    "llama-nano": ("--bits", 2, "--samples", 13),  # 13 samples: shares are uneven
    "opt-micro": (
        *("--bits", 3, "--samples", 13, "--processing", "baseline"),
        *("--group-size", 40, "--symmetric"),
    ),
}


def outcome(name, out, ranks, threads):
    how = {"ranks": ranks, "threads": threads}
    packed = cli.quantize(cli.model(name), out, *OPTIONS[name], "--threads", threads, **how)
    report = cli.evaluate(cli.model(name), cli.CALIBRATION, packed, samples=21, **how)
    found = cli.inspect(packed)
    losses = [layer["relative_proxy_loss"] for layer in found["layers"]]
    return found["digest"], report["perplexity"], losses


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    root = tmp_path_factory.mktemp("serial")
    return {name: outcome(name, root / name, 1, 1) for name in OPTIONS}


# By day every shape on one of the models, which take turns; at night on both.
TURNS = zip(itertools.cycle(OPTIONS), SHAPES, strict=False)


@pytest.mark.parametrize(
    ("name", "shape"), itertools.product(OPTIONS, SHAPES) if cli.THOROUGH else TURNS
)
def test_same_result(name, shape, serial, tmp_path):
    assert outcome(name, tmp_path / "out", *shape) == serial[name]


def test_more_ranks_than_samples(tmp_path):
    """Ranks without a sample still take part."""
    options = ("--bits", 2, "--samples", 2)
    digests = {
        cli.inspect(
            cli.quantize(cli.model("llama-nano"), tmp_path / f"{ranks}", *options, ranks=ranks)
        )["digest"]
        for ranks in (1, 4)
    }
    assert len(digests) == 1


def test_seed_and_bits_change_the_digest(tmp_path):
    """Else equal digests above would prove nothing."""
    variants = [("--bits", 2), ("--bits", 3), ("--bits", 2, "--seed", 5)]
    digests = {
        cli.inspect(
            cli.quantize(cli.model("llama-nano"), tmp_path / f"{i}", "--samples", 2, *options)
        )["digest"]
        for i, options in enumerate(variants)
    }
    assert len(digests) == len(variants)
