#!/usr/bin/env python3
"""Table and charts of a scaling study: speed-up, efficiency, and the share of communication.

jobs/plot_scaling.py STUDY/reports/*.json --out STUDY/scaling
jobs/plot_scaling.py STUDY/scaling.csv --out picture

Writes OUT.md, OUT.png and OUT.svg, and from report.json files OUT.csv. Reports of runs that no
study (jobs/scaling_strong.sbatch, jobs/scaling_weak.sbatch) made will do, too. Everything is
relative to the run on the fewest cores; repeats of a run count by their median.
"""

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.append(sys.path.pop(0))  # Python's own module `tokenize` comes before ours

import argparse
from pathlib import Path

from job_input import InputError, run_job
from scaling_data import Point, Run, kind_of, phases_of, points_of, read_runs, write_csv

HEADER = (
    "| nodes | ranks | threads | runs | seconds | fastest – slowest | speed-up | efficiency "
    "| communication | waiting | peak memory of a rank |"
)
WORK = {
    "strong": "Strong scaling: the same work on every number of ranks.",
    "weak": "Weak scaling: work grows with nodes or ranks; speed-up is that of work per second.",
}


# --- table ---


def table(kind: str, points: list[Point]) -> str:
    lines = [WORK[kind], "", HEADER, "|---|" + "---:|" * (HEADER.count("|") - 2)]
    lines += [table_row(point) for point in points]
    note = "Communication, and waiting for slower ranks as a part of it: shares of the whole time."
    return "\n".join([*lines, "", note, "", *phase_table(points)]) + "\n"


def table_row(point: Point) -> str:
    run, times = point.runs[0], [run.seconds for run in point.runs]
    cells = [
        *(run.nodes, run.ranks, run.threads, len(times)),
        *(f"{point.seconds:.2f}", f"{min(times):.2f} – {max(times):.2f}"),
        *(f"{point.speedup:.2f}", f"{point.efficiency:.1%}"),
        f"{point.share(lambda run: run.communication):.1%}",
        f"{point.share(lambda run: run.idle):.1%}",
        f"{max(run.peak_rss for run in point.runs) / 2**20:.0f} MiB",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def phase_table(points: list[Point]) -> list[str]:
    """Returns seconds by phase, which shows the phases that do not shrink."""
    runs = [run for point in points for run in point.runs]
    lines = [
        "Seconds of the slowest rank in each phase; in parentheses the share of the whole time",
        "that its collectives take.",
        "",
        "| phase | " + " | ".join(name_of(point) for point in points) + " |",
        "|---|" + "---:|" * len(points),
    ]
    for phase in phases_of(runs):
        cells = [f"{p.phase_seconds(phase):.2f} ({p.communication(phase):.1%})" for p in points]
        lines.append(f"| {phase} | " + " | ".join(cells) + " |")
    return lines


def name_of(point: Point) -> str:
    run: Run = point.runs[0]
    words = f"{run.ranks} rank{'' if run.ranks == 1 else 's'}"
    return words if run.threads == 1 else f"{words} × {run.threads}"


# --- charts ---


def draw(kind: str, points: list[Point], out: Path) -> None:
    """Three panels. Repeats are dots, medians the line; dashes would be perfect scaling."""
    import matplotlib
    from plot_report import STYLE, plt, save

    with matplotlib.rc_context(STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(10.8, 3.2), gridspec_kw={"wspace": 0.3})
        draw_speedup(panels[0], points)
        draw_efficiency(panels[1], points)
        draw_communication(panels[2], points)
        figure.suptitle(f"{kind.capitalize()} scaling", x=0.09, ha="left", y=1.03)
        save(figure, out)


def repeats(points: list[Point]) -> tuple[list[float], list[float]]:
    """Returns cores and speed-up of every single run."""
    cores = [run.cores for point in points for run in point.runs]
    speedups = [p.speedup * p.seconds / run.seconds for p in points for run in p.runs]
    return cores, speedups


def label_cores(axes, points: list[Point]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks([p.runs[0].cores for p in points], [name_of(p) for p in points])
    axes.set_xticks([], minor=True)


def draw_speedup(axes, points: list[Point]) -> None:
    cores = [point.runs[0].cores for point in points]
    axes.set_yscale("log", base=2)
    axes.plot(cores, [point.growth for point in points], "--", color="#999999", linewidth=1)
    axes.plot(cores, [point.speedup for point in points], "-", color="#d55e00", linewidth=1.4)
    axes.plot(*repeats(points), "o", color="#d55e00", markersize=3)
    label_cores(axes, points)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title("Speed-up")


def draw_efficiency(axes, points: list[Point]) -> None:
    cores = [point.runs[0].cores for point in points]
    first = points[0].runs[0].cores
    where, speedups = repeats(points)
    axes.axhline(100, linestyle="--", color="#999999", linewidth=1)
    axes.plot(cores, [100 * p.efficiency for p in points], "-", color="#d55e00", linewidth=1.4)
    single = [100 * s * first / c for c, s in zip(where, speedups, strict=True)]
    axes.plot(where, single, "o", color="#d55e00", markersize=3)
    label_cores(axes, points)
    axes.set_ylim(0, max(110, 1.1 * max(single)))
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_title("Efficiency")


def draw_communication(axes, points: list[Point]) -> None:
    """A bar for each count, made of the phases that communicate at all."""
    places = range(len(points))
    bottom = [0.0] * len(points)
    names = phases_of([run for point in points for run in point.runs])
    shares = {name: [100 * point.communication(name) for point in points] for name in names}
    largest = sorted(shares, key=lambda name: -max(shares[name]))
    for index, name in enumerate(name for name in largest if max(shares[name]) > 0):
        axes.bar(places, shares[name], 0.6, bottom, color=f"C{index}", label=name)
        bottom = [low + share for low, share in zip(bottom, shares[name], strict=True)]
    axes.set_xticks(places, [name_of(point) for point in points])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.set_title("Share of communication")
    if any(bottom):
        handles, labels = axes.get_legend_handles_labels()
        style = {"frameon": False, "fontsize": 8, "loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(handles[::-1], labels[::-1], **style)  # as the bar is stacked


# --- command line ---


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, nargs="+", help="report.json files, or a study's CSV")
    parser.add_argument("--out", type=Path, required=True, help="files without .md, .png …")
    return parser.parse_args(arguments)


def write(options: argparse.Namespace) -> None:
    runs = read_runs(options.input)
    kind, points = kind_of(runs), points_of(runs)
    if not any(path.suffix == ".csv" for path in options.input):
        write_csv(options.out.with_name(options.out.name + ".csv"), runs)
    text = table(kind, points)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(options.out.name + ".md").write_text(text, encoding="utf-8")
    print(text)
    try:
        draw(kind, points, options.out)
    except ModuleNotFoundError as missing:
        raise InputError(
            f"no plots without {missing.name}, which jobs/install-deps.sh --venv installs"
        ) from None


def main(arguments: list[str] | None = None) -> int:
    return run_job(__file__, write, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
