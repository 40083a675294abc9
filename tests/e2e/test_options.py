"""Every processing step on its own: the same bits on any ranks, sound files, a usable model."""

import math

import pytest

import cli

SETUP = ("--bits", 2, "--samples", 16)
BASELINE = ("--processing", "baseline")

CHOICES = [
    ("--transform", "kronecker"),
    ("--transform", "kronecker-blocked"),
    ("--transform", "kronecker-nopermute"),
    ("--transform", "hadamard"),
    ("--transform", "dense"),
    ("--transform", "none"),
    ("--rescale", "off"),
    ("--grid", "minmax"),
    ("--grid", "minmax", "--symmetric"),
    ("--grid", "minmax", "--group-size", 32),
    (*BASELINE, "--group-size", 64, "--symmetric"),
    (*BASELINE, "--group-size", 48, "--method", "optq", "--act-order"),
    (*BASELINE, "--group-size", 48, "--method", "optq"),
    (*BASELINE, "--group-size", 48, "--method", "optq", "--groups", "static"),
    (*BASELINE, "--transform", "hadamard"),
    (*BASELINE, "--rescale", "on"),
    (*BASELINE, "--grid", "incoherent"),
]
# By day two ranks take what test_matrix.py does not spread over ranks; at night everything.
SPREAD = (
    CHOICES
    if cli.THOROUGH
    else [
        ("--grid", "minmax", "--group-size", 32),
        (*BASELINE, "--group-size", 48, "--method", "optq", "--groups", "static"),
        (*BASELINE, "--group-size", 48, "--method", "optq", "--act-order"),
        (*BASELINE, "--rescale", "on"),
    ]
)


def name_of(value):
    return " ".join(map(str, value))


def perplexity(packed):
    """On 32 rows: enough to rank models, and quick."""
    model = cli.model("llama-nano")
    return cli.evaluate(model, cli.CALIBRATION, packed, samples=32)["perplexity"]


@pytest.fixture(scope="module")
def nearest(quantized):
    return perplexity(quantized("llama-nano", *SETUP, *BASELINE, "--method", "nearest"))


@pytest.mark.parametrize("choice", CHOICES, ids=name_of)
def test_a_step_on_its_own(choice, nearest, quantized):
    packed = quantized("llama-nano", *SETUP, *choice)
    assert cli.inspect(packed, "--verify")["verified"]
    found = perplexity(packed)
    assert math.isfinite(found)
    assert found < nearest


@pytest.mark.parametrize("choice", SPREAD, ids=name_of)
def test_a_step_on_two_ranks(choice, quantized, tmp_path):
    spread = cli.quantize(
        cli.model("llama-nano"), tmp_path / "two", *SETUP, *choice, "--threads", 1, ranks=2
    )
    serial = quantized("llama-nano", *SETUP, *choice)
    assert cli.inspect(spread, "--verify")["digest"] == cli.inspect(serial)["digest"]


def test_every_choice_is_another_model(quantized):
    """Else a step that does nothing would pass above."""
    digests = {
        cli.inspect(quantized("llama-nano", *SETUP, *choice))["digest"] for choice in CHOICES
    }
    assert len(digests) == len(CHOICES)


@pytest.mark.parametrize(
    ("bundle", "steps"),
    [
        (BASELINE, ("--rescale", "off", "--transform", "none", "--grid", "minmax")),
        (
            ("--processing", "incoherence"),
            ("--rescale", "on", "--transform", "hadamard", "--grid", "incoherent"),
        ),
    ],
    ids=["baseline", "incoherence"],
)
def test_a_bundle_is_its_steps(bundle, steps, quantized):
    """Steps given one by one override the other bundle entirely."""
    other = "incoherence" if bundle == BASELINE else "baseline"
    assert (
        cli.inspect(quantized("llama-nano", *SETUP, *bundle))["digest"]
        == cli.inspect(quantized("llama-nano", *SETUP, "--processing", other, *steps))["digest"]
    )


def test_settings_in_force_are_recorded(quantized):
    options = cli.inspect(quantized("llama-nano", *SETUP, *BASELINE, "--transform", "hadamard"))[
        "options"
    ]
    assert options["transform"] == "hadamard"
    assert options["grid"] == "minmax"
    assert options["rescale"] is False
    assert options["symmetric"] is False
    assert options["group_size"] == 0
    grouped = (*BASELINE, "--group-size", 48, "--method", "optq")
    for choice, groups in (((), "dynamic"), (("--act-order",), "static")):
        recorded = cli.inspect(quantized("llama-nano", *SETUP, *grouped, *choice))["options"]
        assert recorded["groups"] == groups
        assert recorded["act_order"] is bool(choice)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (48, "layer model.layers.0.self_attn.q_proj: 128 columns in groups of 48 leave a last "
             "group of 32 (and 27 more layers)"),
        (128, "layer model.layers.0.mlp.down_proj: 352 columns in groups of 128 leave a last "
              "group of 96 (and 3 more layers)"),
        (32, None),
    ],
)  # fmt: skip
def test_a_ragged_last_group_is_said_once(size, said, tmp_path):
    """llama-nano: 128 inputs, but 352 of the four down_proj."""
    result = cli.run(
        *("quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION),
        *("--out", tmp_path / "out", "--samples", 2, *BASELINE, "--group-size", size),
        *("--blocks", "0:1"),
        ranks=2,
    )
    lines = [line for line in result.stderr.splitlines() if "last group" in line]
    assert len(lines) == (1 if said else 0)
    assert not said or said in lines[0]
