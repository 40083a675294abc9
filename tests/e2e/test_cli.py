"""The command line itself: help, configuration files, what is printed where."""

import json
import shutil
from pathlib import Path

import pytest

import cli

SHORT = ("--samples", 4)
COMMANDS = ["quantize", "eval", "inspect", "export"]


@pytest.fixture(scope="module")
def run_at_two_bits(tmp_path_factory):
    """The finished process and the packed directory of one plain run on two ranks."""
    out = tmp_path_factory.mktemp("plain") / "packed"
    result = cli.run(
        "quantize", "--model", cli.model("llama-nano"), "--tokens", cli.CALIBRATION,
        "--out", out, "--bits", 2, *SHORT, ranks=2,
    )  # fmt: skip
    return result, out


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    result = cli.run(command, "--help")
    assert "usage" in result.stdout.lower()
    assert "--" in result.stdout


def test_help_lists_commands():
    text = cli.run("--help").stdout
    assert all(command in text for command in COMMANDS)


def test_version():
    assert "0.1.0" in cli.run("--version").stdout


def test_configuration_file_equals_flags(run_at_two_bits, tmp_path):
    config = tmp_path / "run.ini"
    config.write_text(
        f"model={cli.model('llama-nano')}\ntokens={cli.CALIBRATION}\nbits=2\nsamples=4\n"
    )
    out = tmp_path / "packed"
    cli.run("quantize", "--config", config, "--out", out)
    assert cli.inspect(out)["digest"] == cli.inspect(run_at_two_bits[1])["digest"]


def test_flags_override_the_configuration_file(tmp_path):
    config = tmp_path / "run.ini"
    config.write_text("bits=2\nsamples=4\n")
    out = cli.quantize(cli.model("llama-nano"), tmp_path / "out", "--config", config, "--bits", 3)
    assert {layer["bits"] for layer in cli.inspect(out)["layers"]} == {3}


def test_settings_are_printed(run_at_two_bits):
    text = run_at_two_bits[0].stdout + run_at_two_bits[0].stderr
    for setting in ("model", "tokens", "bits", "method", "seed", "ranks"):
        assert setting in text
    assert str(cli.model("llama-nano")) in text


def test_progress_is_one_line_per_block_without_a_terminal(run_at_two_bits):
    text = run_at_two_bits[0].stdout + run_at_two_bits[0].stderr
    assert "\r" not in text
    assert "\x1b[" not in text
    lines = [line for line in text.splitlines() if "block" in line.lower() and "/4" in line]
    assert len(lines) >= 4


def test_summary_groups_layers_by_type(run_at_two_bits):
    text = run_at_two_bits[0].stdout
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert kind in text


def test_report(run_at_two_bits):
    report = json.loads((run_at_two_bits[1] / "report.json").read_text())
    assert report["ranks"] == 2
    assert len(report["peak_rss_bytes"]) == 2
    assert len(report["layers"]) == 28  # 4 blocks of 7 linear layers
    assert all(0 < layer["relative_proxy_loss"] < 1 for layer in report["layers"])
    assert report["tokens"] == 4 * 256
    # Embedding and head, the norms; per block attention, feed-forward and two norms.
    assert report["parameters"] == 2 * 4096 * 128 + 128 + 4 * (384 * 128 + 3 * 128 * 352 + 2 * 128)


SUMMED = ("flops", "bytes_sent", "bytes_read", "bytes_written")


def test_report_accounts_for_everything(run_at_two_bits):
    """Every second and every byte of a rank is some phase's, and every rank's part of a sum."""
    report = json.loads((run_at_two_bits[1] / "report.json").read_text())
    ranks = report["rank_reports"]
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert [rank["peak_rss_bytes"] for rank in ranks] == report["peak_rss_bytes"]
    for rank in ranks:
        phases = rank["phases"].values()
        assert rank["seconds"] == pytest.approx(sum(phase["seconds"] for phase in phases))
        assert rank["seconds"] == pytest.approx(report["seconds"], rel=0.2)
        assert rank["bytes_sent"] == sum(phase["bytes_sent"] for phase in phases)
        assert 0 <= rank["idle_seconds"] <= rank["communication_seconds"] <= rank["seconds"]
    for name, phase in report["phases"].items():
        parts = [rank["phases"][name] for rank in ranks]
        assert phase["seconds"] == max(part["seconds"] for part in parts)
        assert all(phase[key] == sum(part[key] for part in parts) for key in SUMMED)


def test_report_counts_what_was_done(run_at_two_bits):
    """Flops and bytes by hand: 4 blocks, hidden 128, ffn 352, keys and values 64 wide."""
    out = run_at_two_bits[1]
    phases = json.loads((out / "report.json").read_text())["phases"]
    length, blocks, hidden, ffn, keys = 256, 4, 128, 352, 64
    tokens = SHORT[1] * length
    linears = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * ffn
    attention = 4 * hidden * (length + 1) / 2
    # The last block's output is not needed.
    forward = (blocks - 1) * tokens * (2 * linears + attention)
    assert phases["forward"]["flops"] == pytest.approx(forward, rel=1e-12)
    captured = linears - hidden * ffn  # down_proj's input, not its output
    capture = blocks * tokens * (2 * captured + attention)
    assert phases["capture"]["flops"] == pytest.approx(capture, rel=1e-12)
    triangles = 3 * hidden * (hidden + 1) + ffn * (ffn + 1)
    assert phases["hessian"]["flops"] == pytest.approx(blocks * tokens * triangles, rel=1e-12)
    # Each Hessian is summed over two ranks; with it go scales, the number of tokens, votes.
    summed = 8 * triangles / 2
    assert summed <= phases["hessian"]["bytes_sent"] / (2 * blocks) < 1.02 * summed
    written = sum(file.stat().st_size for file in out.rglob("*.h5"))
    states = (blocks - 1) * 4 * tokens * hidden
    assert written + states <= phases["write"]["bytes_written"] < 1.1 * (written + states)


def test_report_has_a_timeline(run_at_two_bits):
    report = json.loads((run_at_two_bits[1] / "report.json").read_text())
    assert {rank for rank, _, _, _ in report["timeline"]} == {0, 1}
    layers = {text for _, text, _, _ in report["timeline"] if text.startswith("factor ")}
    assert layers == {"factor " + layer["name"] for layer in report["layers"]}
    phases = [text for _, text, _, _ in report["timeline"] if text not in layers]
    assert set(phases) == set(report["phases"]) - {"other"}
    for rank in range(2):  # phases one after the other, and so the factors of a rank
        for factors in (True, False):
            times = [
                unit[2:]
                for unit in report["timeline"]
                if unit[0] == rank and (unit[1] in layers) == factors
            ]
            ends = [0, *(end for _, end in times)]
            assert all(ends[i] <= start <= end for i, (start, end) in enumerate(times))
            assert ends[-1] <= report["seconds"]


def test_inspect_verifies(run_at_two_bits):
    out = run_at_two_bits[1]
    report = cli.inspect(out, "--verify")
    assert len(report["layers"]) == 28
    assert {layer["bits"] for layer in report["layers"]} == {2}


@pytest.mark.parametrize("file", ["blocks/block_00002.h5", "rest.h5", "manifest.json"])
def test_verify_finds_one_changed_byte(run_at_two_bits, file, tmp_path):
    out = Path(shutil.copytree(run_at_two_bits[1], tmp_path / "copy"))
    content = bytearray((out / file).read_bytes())
    place = content.index(b'"seed"') + 1 if file.endswith(".json") else len(content) // 2
    content[place] ^= 0x01
    (out / file).write_bytes(content)
    result = cli.run("inspect", out, "--verify", check=False)
    assert result.returncode != 0
    assert file in result.stdout + result.stderr


def test_eval_prints_only_json_on_stdout(run_at_two_bits):
    packed = run_at_two_bits[1]
    report = cli.evaluate(cli.model("llama-nano"), cli.CALIBRATION, packed, samples=5, ranks=2)
    assert report["tokens"] == 5 * 255
    assert report["perplexity"] > 1


def test_skip_leaves_layers_as_they_are(tmp_path):
    out = cli.quantize(
        cli.model("llama-nano"), tmp_path / "out", "--bits", 2, "--skip", "down_proj", *SHORT
    )
    names = [layer["name"] for layer in cli.inspect(out)["layers"] if layer.get("bits", 16) < 16]
    assert len(names) == 24
    assert not any("down_proj" in name for name in names)


def test_skip_may_leave_whole_blocks(tmp_path):
    skip = ("--skip", "layers.[123]")
    out = cli.quantize(cli.model("llama-nano"), tmp_path / "out", "--bits", 2, *skip, *SHORT)
    names = [layer["name"] for layer in cli.inspect(out, "--verify")["layers"]]
    assert len(names) == 7
    assert all("layers.0." in name for name in names)


@pytest.mark.parametrize("command", ["eval", "inspect", "export", "help"])
def test_results_that_cannot_be_written_are_an_error(command, run_at_two_bits, tmp_path):
    packed = run_at_two_bits[1]
    model = ("--model", cli.model("llama-nano"), "--packed", packed)
    arguments = {
        "eval": ("eval", *model, "--tokens", cli.EVALUATION, "--samples", 2, "--json"),
        "inspect": ("inspect", packed, "--json"),
        "export": ("export", *model, "--out", tmp_path / "out"),
        "help": ("plan", "--help"),
    }[command]
    full = ("bash", "-c", 'exec "$0" "$@" > /dev/full')
    result = cli.run(*arguments, prefix=full, check=False)
    assert result.returncode == 1
    assert "No space left on device" in result.stderr and result.stderr.count("error:") == 1


def test_unknown_option_is_named():
    result = cli.run("quantize", "--bitz", 2, check=False)
    assert result.returncode != 0
    assert "--bitz" in result.stderr


def test_unknown_command_is_named():
    result = cli.run("quantise", check=False)
    assert result.returncode != 0
    assert "quantise" in result.stderr
