#!/usr/bin/env python3
"""Charts and tables of quantization runs; each chart as PNG and as SVG.

jobs/plot_report.py layers out/*/report.json --out losses     relative proxy loss, layer by layer
jobs/plot_report.py timeline out/report.json --out timeline
                               the work of each rank over time, in the first blocks
jobs/plot_report.py streams out/*/report.json --out streams
                               distance from the unquantized model after each block, of runs
                               with --target stream
jobs/plot_report.py experts out/report.json --out experts
                               tokens of every expert, block by block
jobs/plot_report.py bits out/sweep/sweep.csv --out bits [--methods nearest ldlq]
                               perplexity against bits
jobs/plot_report.py gap out/sweep/sweep.csv --models DIR --out gap
                               the loss from 4 bits to 2, against the model's size
jobs/plot_report.py table out/sweep/sweep.csv [--golden DIR] [--reasons FILE] [--models DIR]
                        [--into PAGE.md]
                        Markdown tables; --into replaces the text between the page's markers
"""

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.append(sys.path.pop(0))  # Python's own module `tokenize` comes before ours
    from job_input import need

    need("matplotlib")

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from job_input import InputError, reading, run_job
from sweep_data import (
    Sweep,
    family,
    models_of,
    parameters,
    read_sweep,
    unquantized,
)
from sweep_tables import GAP_METHOD, GAPS, gap_of, write_table

COLOURS = {
    "nearest": "#999999",
    "optq": "#0072b2",
    "ldlq": "#d55e00",
    "ldlq-rg": "#cc79a7",
    "greedy": "#009e73",
    "ldl-admm": "#56b4e9",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "svg.hashsalt": "quip",  # the same picture gives the same file
    "savefig.dpi": 160,
}


def save(figure: plt.Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        file = out.with_name(out.name + suffix)
        figure.savefig(
            file, bbox_inches="tight", metadata={"Date": None} if suffix == ".svg" else {}
        )
        print(file)
    plt.close(figure)


def label_lines(axes: plt.Axes, labels: list[tuple]) -> None:
    """Names lines at their right ends instead of in a legend: (x, y, text, colour). Labels that
    would overlap move apart, by equal shares."""
    labels = sorted(labels, key=lambda label: label[1])
    places = [axes.transData.transform((x, y))[1] for x, y, _, _ in labels]
    room = 10 * axes.figure.dpi / 72  # a line of text
    for _ in range(500):
        for k in range(len(places) - 1):
            overlap = room - (places[k + 1] - places[k])
            if overlap > 0:
                places[k] -= overlap / 2
                places[k + 1] += overlap / 2
    to_data = axes.transData.inverted().transform
    for (x, _, text, colour), place in zip(labels, places, strict=True):
        axes.annotate(
            text,
            (x, to_data((0, place))[1]),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
            annotation_clip=False,
        )


def labels_of(options: argparse.Namespace) -> list[str]:
    labels = options.labels or [path.parent.name or path.stem for path in options.reports]
    if len(labels) != len(options.reports):
        raise InputError(f"{len(labels)} --labels for {len(options.reports)} reports")
    return labels


def plot_layers(options: argparse.Namespace) -> None:
    """One curve per run, layers in the model's order, a faint line where a block begins."""
    labels = labels_of(options)
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    axes.set_yscale("log")
    ends, names = [], []
    for index, (path, label) in enumerate(zip(options.reports, labels, strict=True)):
        layers = read_report(path)
        names = max(names, [name for name, _ in layers], key=len)
        colour = f"C{index}"
        losses = [(k, loss) for k, (_, loss) in enumerate(layers) if loss is not None]
        if not losses:
            raise InputError(f"{path} has no layer whose loss could be measured")
        axes.plot(
            *zip(*losses, strict=True), color=colour, linewidth=1.2, marker="o", markersize=2.5
        )
        ends.append((*losses[-1], label, colour))
    blocks = [next((part for part in name.split(".") if part.isdigit()), "") for name in names]
    starts = [k for k, block in enumerate(blocks) if k == 0 or block != blocks[k - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    shown = starts[:: -(-len(starts) // 20)]  # at most 20 numbers
    middles = [start + (blocks.count(blocks[start]) - 1) / 2 for start in shown]
    axes.set_xticks(middles, [blocks[start] for start in shown])
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("block")
    axes.set_title("Relative proxy loss of every layer")
    label_lines(axes, ends)
    save(figure, options.out)


def read_report(path: Path) -> list[tuple[str, float]]:
    with reading(path, "a report.json of quip quantize"):
        layers = json.loads(path.read_text())["layers"]
        losses = [(str(layer["name"]), float(layer["relative_proxy_loss"])) for layer in layers]
    if not losses:
        raise InputError(f"{path} has no layers")
    return losses


def plot_streams(options: argparse.Namespace) -> None:
    """A curve per run: the relative distance of its hidden states from the unquantized ones."""
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    ends = []
    for index, (path, label) in enumerate(zip(options.reports, labels_of(options), strict=True)):
        with reading(path, "a report.json of quip quantize"):
            distances = json.loads(path.read_text()).get("stream_distances")
        if not distances:
            raise InputError(f"{path} has no stream_distances: quantize with --target stream")
        colour = f"C{index}"
        blocks = range(len(distances))
        axes.plot(blocks, distances, color=colour, linewidth=1.2, marker="o", markersize=3)
        ends.append((len(distances) - 1, distances[-1], label, colour))
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("block")
    axes.set_title("Relative distance from the unquantized model, after each block")
    label_lines(axes, ends)
    save(figure, options.out)


def plot_experts(options: argparse.Namespace) -> None:
    """A dot for each expert: its calibration tokens; a dash for the mean of a block."""
    with reading(options.report, "a report.json of quip quantize"):
        layers = json.loads(options.report.read_text())["layers"]
        tokens = defaultdict(dict)
        for layer in layers:
            if "tokens" in layer:
                parts = layer["name"].split(".")
                expert = parts[parts.index("experts") + 1]
                block = next(int(part) for part in parts if part.isdigit())
                tokens[block][expert] = layer["tokens"]
    if not tokens:
        raise InputError(f"{options.report} has no experts")
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    axes.set_yscale("symlog", linthresh=1)  # an expert may have none
    for block, counts in tokens.items():
        values = list(counts.values())
        axes.plot([block] * len(values), values, "o", color="#0072b2", markersize=2.5, alpha=0.5)
        axes.plot([block], [statistics.mean(values)], "_", color="black", markersize=12)
    axes.set_ylim(bottom=-0.2)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("block")
    axes.set_title("Calibration tokens of every expert; dashes: means")
    save(figure, options.out)


PHASES = {
    "load": "#999999",
    "capture": "#56b4e9",
    "hessian": "#0072b2",
    "factor": "#d55e00",
    "round": "#009e73",
    "dequantize": "#f0e442",
    "forward": "#cc79a7",
    "write": "#444444",
}


def plot_timeline(options: argparse.Namespace) -> None:
    """A bar per rank, coloured by phase; below, thin, its own factorisations: it waited for others
    in the rest of that phase."""
    phases, factors = read_timeline(options.report)
    ranks = sorted({rank for rank, *_ in phases})
    row = {rank: len(ranks) - 1 - k for k, rank in enumerate(ranks)}
    figure, axes = plt.subplots(figsize=(7.2, 0.9 + 0.3 * len(ranks)))
    begin = min(start for _, _, start, _ in phases)
    end = max(end for *_, end in phases)
    for name, colour in PHASES.items():
        bars = [(rank, start, stop) for rank, what, start, stop in phases if what == name]
        axes.barh(
            [row[rank] + 0.1 for rank, _, _ in bars],
            [stop - start for _, start, stop in bars],
            left=[start - begin for _, start, _ in bars],
            height=0.5,
            color=colour,
            label=name,
        )
    shown = [(rank, start, stop) for rank, start, stop in factors if stop <= end and rank in row]
    axes.barh(
        [row[rank] - 0.25 for rank, _, _ in shown],
        [stop - start for _, start, stop in shown],
        left=[start - begin for _, start, _ in shown],
        height=0.14,
        color=PHASES["factor"],
    )
    axes.set_yticks([row[rank] for rank in ranks], [f"rank {rank}" for rank in ranks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    axes.set_title("What each rank did; thin: layers it factorised")
    axes.legend(ncols=1, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    save(figure, options.out)


def read_timeline(path: Path) -> tuple[list, list]:
    """Stretches of phases (rank, name, start, end), and factorisations (rank, start, end)."""
    with reading(path, "a report.json of quip quantize"):
        units = [
            (int(rank), what, float(start), float(end))
            for rank, what, start, end in json.loads(path.read_text())["timeline"]
        ]
        phases = [unit for unit in units if unit[1] in PHASES]
        factors = [(r, start, end) for r, what, start, end in units if what.startswith("factor ")]
    if not phases:
        raise InputError(f"{path} has no timeline")
    return phases, factors


def plot_bits(options: argparse.Namespace) -> None:
    """A panel per model. Dashed: baseline; solid: incoherence; heavy: QuIP with our defaults."""
    sweep = read_sweep(options.sweep)
    models = models_of(sweep)
    figure, panels = plt.subplots(
        1, len(models), figsize=(4 * len(models), 3.6), squeeze=False, gridspec_kw={"wspace": 1}
    )
    for axes, model in zip(panels[0], models, strict=True):
        draw_bits(axes, sweep, model, options.methods)
    panels[0][0].set_ylabel("perplexity")
    save(figure, options.out)


def draw_bits(axes: plt.Axes, sweep: Sweep, model: str, methods: list[str]) -> None:
    curves = defaultdict(dict)
    for (name, method, processing, bits, settings), runs in sweep.items():
        ours = processing == "incoherence" and method == "ldlq"
        shown = method in methods and (settings == "paper" or ours)
        if name == model and shown:
            curves[method, processing, settings][int(bits)] = statistics.mean(runs.perplexity)
    ends = []
    for (method, processing, settings), points in curves.items():
        own = settings == "default"
        colour = "black" if own else COLOURS[method]
        dash = "--" if processing == "baseline" else "-"
        where = sorted(points, reverse=True)
        heights = [points[bits] for bits in where]
        width = 2 if own else 1.2
        axes.plot(where, heights, dash, marker="o", markersize=3, color=colour, linewidth=width)
        text = f"{processing}, {method}" + (", defaults" if own else "")
        ends.append((where[-1], heights[-1], text, colour))
    axes.invert_xaxis()
    axes.set_xticks(sorted({bits for points in curves.values() for bits in points}))
    axes.set_xlabel("bits per weight")
    axes.set_title(model)
    axes.margins(y=0.12)
    full = unquantized(sweep, model)
    if full is not None:
        axes.axhline(full, color="#bbbbbb", linewidth=0.8, zorder=0)
        right = axes.get_xlim()[1]
        note = {"ha": "right", "va": "top", "color": "#888888", "fontsize": 8}
        axes.annotate("unquantized", (right, full), (0, -2), textcoords="offset points", **note)
    label_lines(axes, ends)


def plot_gap(options: argparse.Namespace) -> None:
    """Draws the excess of the perplexity at 2 bits over that at 4 bits against the model's size;
    lines join models of one family."""
    sweep = read_sweep(options.sweep)
    sizes = {model: parameters(options.models / model) for model in models_of(sweep)}
    figure, axes = plt.subplots(figsize=(4.8, 3.4))
    axes.set_xscale("log")
    ends = []
    for processing_and_settings, colour in zip(
        GAPS, ("#999999", COLOURS["ldlq"], "black"), strict=True
    ):
        families = defaultdict(list)
        for model, size in sizes.items():
            gap = gap_of(sweep, model, options.method, *processing_and_settings)
            if gap is not None:
                families[family(options.models / model)].append((size, 100 * gap))
        for points in families.values():
            where, heights = zip(*sorted(points), strict=True)
            axes.plot(where, heights, "o-", color=colour, linewidth=1.2, markersize=4)
        if families:
            last = max(point for points in families.values() for point in points)
            ends.append((*last, ", ".join(processing_and_settings), colour))
    if not ends:
        raise InputError(f"{options.sweep} has no model with {options.method} at 2 and at 4 bits")
    ticks = [f"{model}\n{size / 1e6:.1f} M" for model, size in sizes.items()]
    axes.set_xticks(list(sizes.values()), ticks)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_xlabel("parameters")
    axes.set_title(f"How far perplexity at 2 bits exceeds that at 4 ({options.method})")
    label_lines(axes, ends)
    save(figure, options.out)


# --- command line ---


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        required=True, metavar="layers|streams|experts|timeline|bits|gap|table"
    )
    for name, run in (("layers", plot_layers), ("streams", plot_streams)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("reports", type=Path, nargs="+", help="report.json of one run each")
        command.add_argument("--labels", nargs="+", help="names of the runs (their folders')")
        command.add_argument("--out", type=Path, required=True, help="file without .png/.svg")
    for name, run in (("timeline", plot_timeline), ("experts", plot_experts)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("report", type=Path, help="report.json of a run")
        command.add_argument("--out", type=Path, required=True, help="file without .png/.svg")
    for name, run in (("bits", plot_bits), ("gap", plot_gap), ("table", write_table)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("sweep", type=Path, help="table of jobs/sweep.sh")
        if name == "bits":
            command.add_argument(
                "--methods", nargs="+", choices=COLOURS, default=COLOURS, help="curves (all)"
            )
        if name in ("gap", "table"):
            needed = name == "gap"
            command.add_argument("--models", type=Path, required=needed, help="checkpoints' folder")
        if name == "gap":
            command.add_argument(
                "--method", default=GAP_METHOD, help="rounding method (%(default)s)"
            )
        if name == "table":
            command.add_argument("--golden", type=Path, help="the authors' numbers, by model")
            command.add_argument("--reasons", type=Path, help="why numbers are not as hoped")
            command.add_argument("--into", type=Path, help="page to update")
        else:
            command.add_argument("--out", type=Path, required=True, help="file without .png/.svg")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with matplotlib.rc_context(STYLE):
        return run_job(__file__, options.run, options)


if __name__ == "__main__":
    sys.exit(main())
