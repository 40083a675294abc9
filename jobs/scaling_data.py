"""The runs of a scaling study, from report.json files or the study's CSV, and their speed-up,
efficiency and time in communication."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from job_input import InputError, reading
from sweep_data import read_rows

COLUMNS = [
    "kind", "nodes", "ranks", "threads", "repeat", "work", "seconds",
    "communication_seconds", "idle_seconds", "bytes_sent", "peak_rss_bytes", "digest",
]  # fmt: skip
SECONDS, COMMUNICATION = "_seconds", "_communication_seconds"


@dataclass(frozen=True)
class Phase:
    seconds: float  # of the slowest rank
    communication: float  # seconds inside collectives, mean over ranks


@dataclass(frozen=True)
class Run:
    """One run. `work` is its amount of work, in any unit that the study keeps."""

    kind: str  # strong or weak
    nodes: int
    ranks: int
    threads: int  # of a rank
    repeat: int
    work: float
    seconds: float
    communication: float  # seconds inside collectives, mean over ranks
    idle: float  # of these, seconds spent waiting for slower ranks
    bytes_sent: int  # all ranks
    peak_rss: int  # bytes, largest rank
    digest: str  # of the quantized model; empty if not known
    phases: dict[str, Phase]

    @property
    def cores(self) -> int:
        return self.ranks * self.threads


@dataclass(frozen=True)
class Point:
    """Runs that differ in nothing but their repeat, relative to the smallest of the study."""

    runs: list[Run]
    seconds: float  # median
    growth: float  # cores, as a multiple of the smallest run's
    speedup: float  # work done per second, as a multiple of the smallest run's

    @property
    def efficiency(self) -> float:
        return self.speedup / self.growth

    def share(self, of: Callable[[Run], float]) -> float:
        """Median share of a run's time."""
        return median(of(run) / run.seconds for run in self.runs)

    def communication(self, phase: str) -> float:
        """Share of the whole time that goes into a phase's collectives."""
        return self.share(
            lambda run: run.phases[phase].communication if phase in run.phases else 0.0
        )

    def phase_seconds(self, phase: str) -> float:
        return median(run.phases[phase].seconds if phase in run.phases else 0 for run in self.runs)


def read_runs(paths: list[Path]) -> list[Run]:
    """Runs of CSV files and of report.json files, in any mixture."""
    runs = []
    for path in paths:
        runs += read_csv(path) if path.suffix == ".csv" else [read_report(path)]
    return runs


def read_report(path: Path) -> Run:
    with reading(path, "a report.json of quip quantize with times in collectives"):
        return run_of(json.loads(path.read_text(encoding="utf-8")))


def run_of(report: dict) -> Run:
    """A report that no study has marked counts by its tokens, and its nodes by their names."""
    ranks = report["rank_reports"]
    study = report.get("study", {})
    return Run(
        kind=study.get("kind", ""),
        nodes=int(study.get("nodes", len({rank["host"] for rank in ranks}))),
        ranks=int(report["ranks"]),
        threads=int(report["threads"]),
        repeat=int(study.get("repeat", 1)),
        work=positive(study["work"] if study else report["tokens"]),
        seconds=positive(report["seconds"]),
        communication=sum(rank["communication_seconds"] for rank in ranks) / len(ranks),
        idle=sum(rank["idle_seconds"] for rank in ranks) / len(ranks),
        bytes_sent=sum(int(rank["bytes_sent"]) for rank in ranks),
        peak_rss=max(int(rank["peak_rss_bytes"]) for rank in ranks),
        digest=study.get("digest", ""),
        phases={
            name: Phase(float(phase["seconds"]), float(phase["communication_seconds"]))
            for name, phase in report["phases"].items()
        },
    )


def positive(value: object) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{value} is not positive")
    return number


def read_csv(path: Path) -> list[Run]:
    kind = "a table of a scaling study"
    with reading(path, kind):
        return [run_of_row(row) for row in read_rows(path, kind)]


def run_of_row(row: dict[str, str]) -> Run:
    names = [name.removesuffix(COMMUNICATION) for name in row if name.endswith(COMMUNICATION)]
    return Run(
        kind=row["kind"],
        nodes=int(row["nodes"]),
        ranks=int(row["ranks"]),
        threads=int(row["threads"]),
        repeat=int(row["repeat"]),
        work=positive(row["work"]),
        seconds=positive(row["seconds"]),
        communication=float(row["communication_seconds"]),
        idle=float(row["idle_seconds"]),
        bytes_sent=int(row["bytes_sent"]),
        peak_rss=int(row["peak_rss_bytes"]),
        digest=row["digest"],
        phases={
            name: Phase(float(row[name + SECONDS]), float(row[name + COMMUNICATION]))
            for name in names
            if row[name + SECONDS]
        },
    )


def write_csv(path: Path, runs: list[Run]) -> None:
    names = phases_of(runs)
    header = COLUMNS + [name + suffix for name in names for suffix in (SECONDS, COMMUNICATION)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for run in sorted(runs, key=lambda run: (run.cores, run.ranks, run.repeat)):
            table.writerow([*row_of(run), *phase_cells(run, names)])


def row_of(run: Run) -> list:
    return [
        *(run.kind, run.nodes, run.ranks, run.threads, run.repeat, run.work, run.seconds),
        *(run.communication, run.idle, run.bytes_sent, run.peak_rss, run.digest),
    ]


def phase_cells(run: Run, names: list[str]) -> list:
    cells = []
    for name in names:
        phase = run.phases.get(name)
        cells += ["", ""] if phase is None else [phase.seconds, phase.communication]
    return cells


def phases_of(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.phases))


def kind_of(runs: list[Run]) -> str:
    """strong: the same work whatever the ranks; weak: work that grows with them."""
    kinds = {run.kind for run in runs}
    if len(kinds) > 1:
        raise InputError("the runs are of different studies; plot strong and weak scaling apart")
    kind = kinds.pop() or ("strong" if len({run.work for run in runs}) == 1 else "weak")
    if kind == "strong" and len({run.work for run in runs}) > 1:
        raise InputError("strong scaling wants runs with the same work")
    return kind


def points_of(runs: list[Run]) -> list[Point]:
    """Returns points in order of cores, relative to the smallest."""
    check_digests(runs)
    groups: dict[tuple[int, int, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.cores, run.ranks, run.nodes, run.repeat)):
        groups.setdefault((run.nodes, run.ranks, run.threads), []).append(run)
    if len(groups) < 2:
        raise InputError("all runs have the same ranks and threads; scaling wants two or more")
    first = next(iter(groups.values()))
    rate = first[0].work / median(run.seconds for run in first)
    points = []
    for group in groups.values():
        seconds = median(run.seconds for run in group)
        growth = group[0].cores / first[0].cores
        points.append(Point(group, seconds, growth, group[0].work / seconds / rate))
    return points


def check_digests(runs: list[Run]) -> None:
    """Refuses runs of the same work with different results: settings or inputs differed."""
    known: dict[float, Run] = {}
    for run in runs:
        before = known.setdefault(run.work, run)
        if run.digest != before.digest:
            raise InputError(
                f"the run on {run.ranks} ranks made the model {run.digest or '?'}, that of the "
                f"same work on {before.ranks} {before.digest or '?'}: settings or inputs differed"
            )
