"""Every rounding method: against the authors' numbers, over ranks, and what is refused."""

import itertools
import statistics

import pytest

import cli

SETUP = ("--samples", 64, "--damp", 0.01)
BITS = [2, 3, 4]

# What reproduces a golden row. Their lazy-batch ldlq-rg takes its number of passes for the block
# size and makes none; their optq fits the incoherent grid to every column anew, so only its
# baseline can be compared.
SAME_AS_THEIRS = {"optq": (), "ldlq-rg": ("--passes", 0), "greedy": ()}


# By day each method at one width; at night at all of them.
BY_DAY = [("optq", 2), ("ldlq-rg", 4), ("greedy", 2)]


@pytest.mark.parametrize(
    ("method", "bits"), itertools.product(SAME_AS_THEIRS, BITS) if cli.THOROUGH else BY_DAY
)
def test_baseline_is_the_authors(method, bits, quantized):
    """Nothing is random here; the authors' fp16 rounding is what differs, most at 2 bits."""
    packed = quantized(
        "llama-nano", "--paper", "--processing", "baseline", "--method", method, "--bits", bits,
        *SAME_AS_THEIRS[method], *SETUP,
    )  # fmt: skip
    expected = cli.golden("llama-nano")[f"{method},{bits},baseline"]["mean_rel_proxy"][0]
    assert cli.mean_relative_proxy(packed) == pytest.approx(
        expected, rel=0.03 if bits == 2 else 0.01
    )


@pytest.mark.parametrize("bits", BITS if cli.THOROUGH else [2])
@pytest.mark.parametrize("method", ["ldlq-rg", "greedy"])
def test_incoherence_is_the_authors(method, bits, quantized, perplexity):
    """Seeds mean different transforms here and there: the mean losses over three agree where they
    vary little. At 4 bits they vary by 4 % from seed to seed, in the authors' runs as in ours, so
    that three runs cannot settle 2 %.

    So do the mean perplexities, by day those of one method.
    """
    runs = [
        quantized(
            "llama-nano", "--paper", "--method", method, "--bits", bits, "--seed", seed,
            *SAME_AS_THEIRS[method], *SETUP,
        )
        for seed in (1, 2, 3)
    ]  # fmt: skip
    expected = cli.golden("llama-nano")[f"{method},{bits},incoherence"]
    if cli.THOROUGH or method == "greedy":
        assert statistics.mean(perplexity("llama-nano", run) for run in runs) == pytest.approx(
            statistics.mean(expected["ppl"]), rel=0.02
        )
    if bits < 4:
        losses = [cli.mean_relative_proxy(run) for run in runs]
        assert statistics.mean(losses) == pytest.approx(
            statistics.mean(expected["mean_rel_proxy"]), rel=0.02
        )


def test_greedy_passes_help_ldlq(quantized):
    plain = quantized("llama-nano", "--bits", 2, *SETUP)
    passes = quantized("llama-nano", "--bits", 2, "--method", "ldlq-rg", *SETUP)
    assert cli.mean_relative_proxy(passes) < cli.mean_relative_proxy(plain)


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "nearest", "--passes", 2),
        ("--method", "optq", "--passes", 2),
        ("--method", "optq", "--order", "forward"),
        ("--method", "ldlq", "--act-order"),
        ("--method", "greedy", "--rounding", "stochastic"),
        ("--method", "greedy", "--passes", 0),
    ],
)
def test_refused_combinations_name_both_options(options, tmp_path):
    result = cli.run(
        "quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION,
        "--out", tmp_path / "out", *options, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    for option in (part for part in options if str(part).startswith("--")):
        assert option in result.stderr
    assert not (tmp_path / "out").exists()
