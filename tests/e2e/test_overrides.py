"""Options of single layers, and Hessians that see the quantized layers of their own block."""

import math

import pytest

import cli

SETUP = ("--bits", 2, "--samples", 16)
MODEL = cli.model("llama-nano")


def layers(packed):
    return {layer["name"]: layer for layer in cli.inspect(packed)["layers"]}


def test_override_changes_the_layers_it_names(tmp_path):
    rules = ("--override", "down_proj:bits=4,method=nearest", "--override", "layers.0.:clamp=pre")
    one = cli.quantize(MODEL, tmp_path / "one", *SETUP, *rules)
    three = cli.quantize(MODEL, tmp_path / "three", *SETUP, *rules, ranks=3)
    assert cli.inspect(one)["digest"] == cli.inspect(three)["digest"]
    for name, layer in layers(one).items():
        down = name.endswith("down_proj")
        assert layer["bits"] == (4 if down else 2), name
        assert layer["method"] == ("nearest" if down else "ldlq"), name
    assert cli.inspect(one)["options"]["overrides"] == list(rules[1::2])


def test_override_leaves_other_layers_alone(tmp_path):
    plain = layers(cli.quantize(MODEL, tmp_path / "plain", *SETUP))
    changed = layers(
        cli.quantize(MODEL, tmp_path / "changed", *SETUP, "--override", "down_proj:bits=4")
    )
    # Later blocks see other activations; the first block's inputs are the same.
    for name in (n for n in plain if ".layers.0." in n and not n.endswith("down_proj")):
        assert changed[name] == plain[name]
    for name in (n for n in plain if n.endswith("down_proj")):
        assert changed[name]["relative_proxy_loss"] < 0.3 * plain[name]["relative_proxy_loss"]


def test_true_sequential_has_the_same_bits_on_any_ranks(tmp_path):
    one = cli.quantize(MODEL, tmp_path / "one", *SETUP, "--true-sequential")
    two = cli.quantize(MODEL, tmp_path / "two", *SETUP, "--true-sequential", ranks=2)
    plain = cli.quantize(MODEL, tmp_path / "plain", *SETUP)
    assert cli.inspect(one)["digest"] == cli.inspect(two)["digest"]
    before, after = layers(plain), layers(one)
    # The first tap of the first block sees nothing quantized yet; what follows it does.
    for part in "qkv":
        name = f"model.layers.0.self_attn.{part}_proj"
        assert after[name] == before[name]
    output = "model.layers.0.self_attn.o_proj"
    assert after[output]["relative_proxy_loss"] != before[output]["relative_proxy_loss"]
    assert math.isfinite(after[output]["relative_proxy_loss"])


@pytest.mark.parametrize(
    ("rule", "culprit"),
    [
        ("down_proj:bits=5", "bits=5"),
        ("q_proj:method=optq,passes=2", "passes"),
        ("q_proj", "REGEX:option=value"),
    ],
)
def test_a_bad_rule_is_one_clear_line(tmp_path, rule, culprit):
    result = cli.run(
        *("quantize", "--model", MODEL, "--out", tmp_path / "out", *SETUP),
        *("--tokens", cli.CALIBRATION, "--override", rule),
        ranks=2,
        check=False,
    )
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert culprit in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "pattern",
    [
        ("--override", "down-proj:bits=4"),
        ("--override", "lm_head:bits=4"),
        ("--skip", "no_such_layer"),
        ("--skip", "down_proj", "--override", "down_proj:bits=4"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["quantize", "plan"])
def test_a_pattern_that_matches_no_layer_is_an_error_before_block_0(tmp_path, command, pattern):
    out = tmp_path / "out"
    inputs = ("--tokens", cli.CALIBRATION, "--out", out)
    result = cli.run(command, "--model", MODEL, *SETUP, *inputs, *pattern, check=False)
    assert result.returncode == 1
    (error,) = (line for line in result.stderr.splitlines() if "error:" in line)
    assert f"{pattern[-2]} '{pattern[-1]}' matches no layer" in error
    assert "model.layers.0." in error
    assert not list(out.glob("blocks/*"))


def test_a_pattern_may_match_layers_outside_the_blocks_of_this_run(tmp_path):
    part = ("--blocks", "0:1", "--skip", r"layers\.3\.", "--override", r"layers\.2\.:bits=4")
    cli.quantize(MODEL, tmp_path / "out", *SETUP, *part)
