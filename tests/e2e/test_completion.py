"""Completion in bash, as a shell would ask for it, and the man pages: both say what --help says."""

import re
import shutil
import subprocess

import pytest

import cli

COMPLETION = cli.ROOT / "src" / "packaging" / "completion.bash"
MAN_PAGES = cli.ROOT / "src" / "packaging" / "man_pages.sh"
COMMANDS = ["quantize", "quantize-layer", "eval", "eval-tasks", "inspect", "export", "plan"]

# Loads the completion, and answers one <TAB> after the words given.
ASK = r"""
source "$1"
shift
complete -p quip >/dev/null || exit 9
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_quip
((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(*words: str, program=cli.QUIP, folder=None) -> list[str]:
    """The candidates for the last word; bash cuts `--option=value` into three words."""
    result = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", str(COMPLETION), str(program), *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout.split()


def option_names(command: str) -> set[str]:
    names = re.findall(r"^  (?:-h \[ )?(--[a-z-]+)", cli.run(command, "--help").stdout, re.M)
    return set(names)


def choices_of(command: str) -> dict[str, list[str]]:
    """Options whose values are offered, but for numbers, files and folders, which have no list."""
    found = {name: complete(command, name, "") for name in sorted(option_names(command))}
    directory = re.findall(r"^  (--[a-z-]+) DIR", cli.run(command, "--help").stdout, re.M)
    # After a switch comes the next option.
    return {
        name: values
        for name, values in found.items()
        if values and name not in directory and not values[0].startswith("--")
    }


def test_commands():
    assert set(complete("")) == {*COMMANDS, "--help", "--version"}
    assert complete("qu") == ["quantize", "quantize-layer"]
    assert complete("nothing-like-it") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_all_options_of_help_are_offered(command):
    names = option_names(command)
    assert len(names) >= 5
    assert set(complete(command, "")) == names
    assert set(complete(command, "--")) == names


def test_options():
    assert complete("quantize", "--co") == ["--codebook", "--config"]
    assert complete("quantize", "--bits", "2", "--co") == ["--codebook", "--config"]
    assert complete("quantize", "--symmetric", "--co") == ["--codebook", "--config"]
    assert complete("inspect", "--co") == []


def test_values():
    methods = {"nearest", "ldlq", "optq", "ldlq-rg", "greedy", "ldl-admm"}
    assert set(complete("quantize", "--method", "")) == methods
    assert complete("quantize", "--method", "ldlq") == ["ldlq", "ldlq-rg"]
    assert complete("quantize", "--method", "=", "gr") == ["greedy"]
    assert set(complete("quantize", "--method", "=")) == methods
    assert complete("plan", "--rescale", "") == ["auto", "off", "on"]
    assert set(complete("export", "--format", "")) == {"bf16", "exl3", "compressed-tensors"}
    assert complete("quantize", "--clamp", "") == ["feedback", "pre"]
    assert complete("quantize", "--bits", "") == []
    assert complete("quantize", "--scale-type", "") == ["auto", "bf16", "fp16", "fp32"]
    assert complete("quantize", "--experts", "") == ["all", "routed"]
    assert complete("quantize", "--for", "") == ["exllamav3", "sglang", "vllm"]
    assert complete("quantize", "--target", "") == ["auto", "layer", "stream"]


@pytest.mark.parametrize("command", ["quantize", "export"])
def test_values_are_those_that_the_program_knows(command, tmp_path):
    """Its error for a value that it does not know lists all that it does."""
    required = {
        "quantize": ("--model", tmp_path, "--tokens", tmp_path / "t.h5", "--out", tmp_path / "out"),
        "export": ("--model", tmp_path, "--packed", tmp_path, "--out", tmp_path / "out"),
    }[command]
    offered = choices_of(command)
    assert len(offered) >= (1 if command == "export" else 15)
    for name, values in offered.items():
        error = cli.run(command, *required, name, "no-such-value", check=False).stderr
        known = re.search(
            rf"{name} no-such-value: .*?(?:none of|choose|must be)(?: one of)? (.*)$", error
        )
        assert known is not None, error
        assert set(values) == set(re.split(r", (?:or )?| or | \(or ", known[1].rstrip(")\n")))


def test_directories(tmp_path):
    (tmp_path / "model-a").mkdir()
    (tmp_path / "model b").mkdir()
    (tmp_path / "model.txt").touch()
    assert complete("quantize", "--model", "model-", folder=tmp_path) == ["model-a"]
    # Files, and what completion knows nothing of, are left to bash.
    assert complete("quantize", "--tokens", "mod", folder=tmp_path) == []
    assert complete("inspect", "mod", folder=tmp_path) == []


def test_program_that_is_not_there(tmp_path):
    assert complete("", program=tmp_path / "quip") == []


def test_another_build_is_asked_again(tmp_path):
    program = tmp_path / "quip"
    program.write_text("#!/bin/sh\necho; echo commands:; echo '  first  one'\n")
    program.chmod(0o755)
    script = rf"""
        source {COMPLETION}
        COMP_WORDS=({program} '') COMP_CWORD=1
        _quip; echo "${{COMPREPLY[0]}}"
        sed -i s/first/second_command/ {program}
        _quip; echo "${{COMPREPLY[0]}}"
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["first", "second_command"]


@pytest.mark.skipif(shutil.which("help2man") is None, reason="no help2man")
def test_man_pages(tmp_path):
    pages = tmp_path / "man"
    subprocess.run(["bash", MAN_PAGES, cli.QUIP, pages], check=True, capture_output=True)
    assert {page.name for page in pages.iterdir()} == {
        "quip.1",
        *(f"quip-{command}.1" for command in COMMANDS),
    }
    for command in COMMANDS:
        text = (pages / f"quip-{command}.1").read_text().replace("\\-", "-")
        described = re.findall(
            r"^\.TP\n\\fB(?:-h\\fR, \\fB)?(--[a-z-]+)\\fR[^\n]*\n(\S)", text, re.M
        )
        assert {name for name, _ in described} == option_names(command)
    overview = (pages / "quip.1").read_text().replace("\\-", "-")
    assert all(f"\n{command}\n" in overview for command in COMMANDS)
    assert "quip 0.1.0" in overview


def test_no_man_pages_of_a_program_that_does_not_run(tmp_path):
    program = tmp_path / "quip"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    result = subprocess.run(
        ["bash", MAN_PAGES, program, tmp_path / "man"], capture_output=True, text=True, check=True
    )
    assert "does not run here" in result.stderr
    assert list((tmp_path / "man").iterdir()) == []
