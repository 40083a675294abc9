"""Rows of jobs/sweep.sh as Markdown tables, beside what the authors' own program achieves."""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

METHODS = ["nearest", "optq", "ldlq", "ldlq-rg", "greedy", "ldl-admm"]
PROCESSING = ["baseline", "incoherence"]
MARKERS = ("<!-- table: begin -->", "<!-- table: end -->")


class InputError(Exception):
    """Something the user can mend; the message is all they see."""


# --- reading ---


@dataclass
class Runs:
    """Rows of a sweep that differ in nothing but their seed."""

    perplexity: list[float] = field(default_factory=list)
    proxy: list[float] = field(default_factory=list)


Sweep = dict[tuple[str, str, str, str, str], Runs]  # model, method, processing, bits, settings


def read_sweep(path: Path) -> Sweep:
    sweep: Sweep = defaultdict(Runs)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                names = ("model", "method", "processing", "bits", "settings")
                runs = sweep[tuple(row[name] for name in names)]
                runs.perplexity.append(float(row["perplexity"]))
                runs.proxy.append(float(row["mean_relative_proxy_loss"]))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is not a table of jobs/sweep.sh") from None
    if not sweep:
        raise InputError(f"{path} holds no rows")
    return dict(sweep)


def values_of(sweep: Sweep, place: int) -> list[str]:
    return list(dict.fromkeys(key[place] for key in sweep if key[1] != "unquantized"))


def models_of(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(key[0] for key in sweep))


def methods_of(sweep: Sweep) -> list[str]:
    found = values_of(sweep, 1)
    return [m for m in METHODS if m in found] + [m for m in found if m not in METHODS]


def unquantized(sweep: Sweep, model: str) -> float | None:
    runs = sweep.get((model, "unquantized", "-", "-", "-"))
    return runs.perplexity[0] if runs else None


# --- tables ---


def cell(values: list[float], authors: list[float] | None, digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text + (f" ({statistics.mean(authors):.{digits}f})" if authors else "")


def golden_rows(golden: dict, model: str, key: tuple[str, str, str], name: str) -> list | None:
    method, bits, processing = key
    return golden.get(model, {}).get(f"{method},{bits},{processing}", {}).get(name)


def model_table(sweep: Sweep, golden: dict, model: str, metric: str) -> list[str]:
    """One line per settings, processing and bits, one column per method."""
    methods = methods_of(sweep)
    digits, name = (2, "ppl") if metric == "perplexity" else (4, "mean_rel_proxy")
    lines = ["| settings | processing | bits | " + " | ".join(methods) + " |"]
    lines.append("|---|---|--:|" + "--:|" * len(methods))
    for settings in sorted(values_of(sweep, 4), reverse=True):
        for processing in (p for p in PROCESSING if p in values_of(sweep, 2)):
            for bits in sorted(values_of(sweep, 3), key=int, reverse=True):
                cells = []
                for method in methods:
                    runs = sweep.get((model, method, processing, bits, settings))
                    key = (method, bits, processing)
                    authors = golden_rows(golden, model, key, name) if settings == "paper" else None
                    cells.append(cell(getattr(runs, metric), authors, digits) if runs else "")
                if any(cells):
                    lines.append(f"| {settings} | {processing} | {bits} | {' | '.join(cells)} |")
    return lines


def allowance(bits: str, processing: str) -> float:
    """Seeds mean different transforms here and there; the authors' fp16 tells most at 2 bits."""
    if processing == "incoherence":
        return 0.02
    return 0.03 if bits == "2" else 0.01


def comparison(sweep: Sweep, golden: dict) -> list[str]:
    """Every number of the authors' program that ours differs from by more than its allowance."""
    compared, absent, missed = 0, {}, []
    for model, rows in golden.items():
        for text in (key for key in rows if key != "fp"):
            method, bits, processing = text.split(",")
            runs = sweep.get((model, method, processing, bits, "paper"))
            if runs is None:
                absent.setdefault(model, {})[method] = True
                continue
            compared += 1
            for label, ours, theirs, digits in (
                ("perplexity", runs.perplexity, rows[text]["ppl"], 2),
                ("relative proxy loss", runs.proxy, rows[text]["mean_rel_proxy"], 4),
            ):
                mean, expected = statistics.mean(ours), statistics.mean(theirs)
                difference, limit = mean / expected - 1, allowance(bits, processing)
                if abs(difference) > limit:
                    missed.append(
                        f"| {model} | {method} | {processing} | {bits} | {label} | "
                        f"{mean:.{digits}f} | {expected:.{digits}f} | {difference:+.1%} | "
                        f"{limit:.0%} |"
                    )
    lines = [f"{compared} rows compared, {len(missed)} numbers beyond their allowance."]
    if absent:
        names = (f"{model} ({', '.join(methods)})" for model, methods in absent.items())
        lines.append(f"Not all of these were run: {'; '.join(names)}.")
    if missed:
        lines += ["", "| model | method | processing | bits | number | ours | authors' | "
                  "difference | allowance |", "|---|---|---|--:|---|--:|--:|--:|--:|"]  # fmt: skip
    return lines + missed


def tables(sweep: Sweep, golden: dict) -> str:
    out = []
    for model in models_of(sweep):
        out += [f"### {model}", ""]
        full, theirs = unquantized(sweep, model), golden.get(model, {}).get("fp")
        if full is not None:
            beside = f" ({theirs:.2f})" if theirs else ""
            out += [f"Perplexity; unquantized {full:.2f}{beside}:", ""]
        out += model_table(sweep, golden, model, "perplexity")
        out += ["", "Mean relative proxy loss:", ""]
        out += [*model_table(sweep, golden, model, "proxy"), ""]
    if golden:
        out += ["### Against the authors' program", "", *comparison(sweep, golden), ""]
    return "\n".join(out)


def read_golden(directory: Path | None) -> dict:
    if directory is None:
        return {}
    golden = {file.stem: json.loads(file.read_text()) for file in sorted(directory.glob("*.json"))}
    if not golden:
        raise InputError(f"{directory} holds no JSON files")
    return golden


def write_table(options: argparse.Namespace) -> None:
    text = tables(read_sweep(options.sweep), read_golden(options.golden))
    if options.into is None:
        print(text, end="")
        return
    begin, end = MARKERS
    before, found, rest = options.into.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{options.into} has no lines '{begin}' and '{end}'")
    options.into.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
