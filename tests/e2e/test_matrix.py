"""The same bits for every method, transform and family, whatever the ranks and threads.

Every setting runs on one family, on one rank and on one other shape, families and shapes in turn;
with QUIP_THOROUGH=1 on both and on every shape. Perplexities, and the default settings on every
shape, are in test_ranks.py.
"""

import itertools

import pytest

import cli
import hf_models

SHAPES = [(2, 1), (3, 2), (4, 1), (1, 2), (6, 1), (2, 2), (8, 1)]  # ranks, threads
SETTINGS = [
    ("--method", "nearest"),
    ("--method", "optq"),
    ("--method", "optq", "--act-order", "--rounding", "stochastic"),
    ("--method", "ldlq", "--order", "forward", "--passes", 2),
    ("--method", "ldlq-rg"),
    ("--method", "greedy"),
    ("--method", "ldl-admm"),
    ("--method", "ldlq", "--rounding", "stochastic", "--true-sequential"),
    ("--method", "optq", "--processing", "baseline", "--group-size", 32),
    ("--transform", "kronecker-blocked", "--paper"),
    ("--transform", "kronecker-nopermute", "--rescale", "off"),
    ("--transform", "hadamard"),
    ("--transform", "dense"),
    ("--transform", "none", "--grid", "incoherent"),
    ("--override", "v_proj:bits=4,method=nearest", "--skip", "k_proj"),
]
turns = itertools.cycle(SHAPES)
CASES = [
    (name, settings, SHAPES if cli.THOROUGH else [next(turns)])
    for name, chosen in (
        ("llama-nano", SETTINGS if cli.THOROUGH else SETTINGS[:9] + SETTINGS[10::2]),
        ("opt-micro", SETTINGS if cli.THOROUGH else SETTINGS[9::2]),  # large: those that are fast
    )
    for settings in chosen
]


@pytest.mark.parametrize(
    ("name", "settings", "shapes"), CASES, ids=[f"{c[0]}{'_'.join(map(str, c[1]))}" for c in CASES]
)
def test_same_digest(name, settings, shapes, tmp_path):
    def digest(ranks, threads):
        out = tmp_path / f"{ranks}-{threads}"
        how = {"ranks": ranks, "threads": threads}
        options = ("--bits", 2, "--samples", 3, "--threads", threads, *settings)
        return cli.inspect(cli.quantize(cli.model(name), out, *options, **how))["digest"]

    expected = digest(1, 1)
    assert [digest(*shape) for shape in shapes] == [expected] * len(shapes)


@pytest.mark.parametrize("name", ["mistral-window", "qwen2", "opt-350m-like", "llama-mqa"])
def test_other_families(name, tmp_path):
    """Digest and perplexity, on random checkpoints."""
    tokens = hf_models.write_tokens(tmp_path / "random.h5", hf_models.random_tokens())
    checkpoint = hf_models.make(name, tmp_path / "model")

    def outcome(ranks):
        out = tmp_path / f"{ranks}"
        cli.quantize(checkpoint, out, "--bits", 2, "--tokens", tokens, ranks=ranks)
        report = cli.evaluate(checkpoint, tokens, out, ranks=ranks)
        return cli.inspect(out)["digest"], report["perplexity"]

    assert outcome(1) == outcome(3)
