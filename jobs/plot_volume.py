#!/usr/bin/env python3
"""Bytes that a rank sends against the number of ranks, beside the least of any algorithm.

jobs/plot_volume.py CONFIG.json --out docs/images/volume [--ranks 1 2 4 … 64] [--samples N]
                    [--length N]

Asks `quip plan` for each number of ranks, one rank a node; prints a Markdown table and writes
OUT.png and OUT.svg. QUIP names the program (this checkout's build, or quip from the PATH).
"""

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.append(sys.path.pop(0))  # Python's own module `tokenize` comes before ours
    from job_input import need

    need("matplotlib")

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from job_input import InputError, quip_program, run_job
from plot_report import STYLE, label_lines, save

PHASES = {"load": "#009e73", "hessian": "#d55e00", "factor": "#cc79a7", "round": "#0072b2"}
DEFAULT_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
GIB = 2**30


def plan(options: argparse.Namespace, ranks: int) -> dict:
    """Returns the plan for one number of ranks: {phase: (bytes sent, least)} of a rank."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [quip_program(), "plan", "--model", options.config]
        command += ["--nodes", ranks, "--ranks-per-node", 1, "--json", out]
        command += ["--samples", options.samples, "--length", options.length]
        try:
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        except OSError as error:
            raise InputError(f"cannot run {command[0]}: {error.strerror}") from None
        except subprocess.CalledProcessError as failed:
            raise InputError(f"quip plan ended with status {failed.returncode}") from None
        phases = json.loads(out.read_text())["phases"]
    return {
        name: (phases[name]["bytes_sent"] / ranks, phases[name]["bound_bytes_sent"] / ranks)
        for name in PHASES
        if name in phases
    }


def table(volumes: dict[int, dict]) -> str:
    lines = [
        "| ranks | " + " | ".join(PHASES) + " | all | least | ratio |",
        "|--:|" + "--:|" * (len(PHASES) + 3),
    ]
    for ranks, phases in volumes.items():
        sent = sum(phase[0] for phase in phases.values())
        least = sum(phase[1] for phase in phases.values())
        cells = [f"{phases[name][0] / GIB:.1f}" if name in phases else "" for name in PHASES]
        ratio = f"{sent / least:.3f}" if least else "-"
        cells += [f"{sent / GIB:.1f}", f"{least / GIB:.1f}", ratio]
        lines.append(f"| {ranks} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(volumes: dict[int, dict], out: Path) -> None:
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    ranks, labels = list(volumes), []
    for name, colour in PHASES.items():
        if any(name not in volumes[count] for count in ranks):
            continue
        sent = [volumes[count][name][0] / GIB for count in ranks]
        least = [volumes[count][name][1] / GIB for count in ranks]
        axes.plot(ranks, sent, color=colour, linewidth=1.2, marker="o", markersize=3)
        axes.plot(ranks, least, color=colour, linewidth=1, linestyle=":")
        labels.append((ranks[-1], sent[-1], name, colour))
    axes.set_xlabel("ranks")
    axes.set_ylim(bottom=0)
    axes.set_title("GiB that a rank sends in a run (dotted: the least that any algorithm could)")
    label_lines(axes, labels)
    save(figure, out)


def run(options: argparse.Namespace) -> None:
    volumes = {ranks: plan(options, ranks) for ranks in options.ranks}
    print(table(volumes))
    draw(volumes, options.out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=DEFAULT_RANKS)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    return run_job(__file__, run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
