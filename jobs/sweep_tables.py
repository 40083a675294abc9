"""Rows of jobs/sweep.sh as Markdown tables, beside what the authors' own program achieves."""

import argparse
import itertools
import statistics
from pathlib import Path

from job_input import InputError, reading
from sweep_compare import Notes, comparison, golden_values, header
from sweep_data import (
    PROCESSING,
    Reasons,
    Sweep,
    bits_of,
    family,
    methods_of,
    models_of,
    parameters,
    read_golden,
    read_reasons,
    read_sweep,
    unquantized,
    values_of,
)

MARKERS = ("<!-- table: begin -->", "<!-- table: end -->")
GAP_METHOD = "ldlq"
GAPS = [("baseline", "paper"), ("incoherence", "paper"), ("incoherence", "default")]


# --- one model ---


# Digits in tables, and the name in the authors' numbers.
METRICS = {"perplexity": (2, "ppl"), "proxy": (4, "mean_rel_proxy"), "divergence": (4, "")}


def cell(values: list[float], authors: list[float] | None, digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text + (f" ({statistics.mean(authors):.{digits}f})" if authors else "")


def model_table(sweep: Sweep, golden: dict, model: str, metric: str) -> list[str]:
    """One line per settings, processing and bits, one column per method."""
    methods = methods_of(sweep)
    digits, name = METRICS[metric]
    lines = header("settings", "processing", "bits", *methods, words=2)
    for settings in sorted(values_of(sweep, 4), reverse=True):
        for processing in (p for p in PROCESSING if p in values_of(sweep, 2)):
            for bits in bits_of(sweep):
                cells = []
                for method in methods:
                    key = (model, method, processing, bits, settings)
                    runs, theirs = sweep.get(key), golden_values(golden, key, name)
                    cells.append(cell(getattr(runs, metric), theirs, digits) if runs else "")
                if any(cells):
                    lines.append(f"| {settings} | {processing} | {bits} | {' | '.join(cells)} |")
    return lines


def fewer_seeds(sweep: Sweep) -> list[str]:
    """Lists the means over fewer seeds than the others."""
    seeded = {key: len(runs.perplexity) for key, runs in sweep.items() if key[2] == "incoherence"}
    most = max(seeded.values(), default=0)
    few = [f"{' '.join(key)} ({count})" for key, count in seeded.items() if count < most]
    return [f"Fewer than {most} seeds: {', '.join(few)}.", ""] if few else []


# --- incoherence, and the cost of two bits ---


def mean_perplexity(sweep: Sweep, *key: str) -> float | None:
    runs = sweep.get(key)
    return statistics.mean(runs.perplexity) if runs else None


def incoherence(sweep: Sweep, reasons: Reasons) -> list[str]:
    """Perplexity at 2 bits with and without incoherence; a note where it does not help."""
    titles = ("model", "method", "baseline", "paper", "better", "default", "better")
    lines, notes = header(*titles, words=2), Notes()
    better = {"paper": [], "default": []}
    for model, method in itertools.product(models_of(sweep), methods_of(sweep)):
        base = mean_perplexity(sweep, model, method, "baseline", "2", "paper")
        cells = []
        for settings, wins in better.items():
            mean = mean_perplexity(sweep, model, method, "incoherence", "2", settings)
            if base is None or mean is None:
                cells += ["", ""]
                continue
            wins.append(mean < base)
            reason = reasons.of("incoherence", model, method, settings, "2")
            word = "yes" if wins[-1] else f"no ({notes.number(reason)})"
            cells += [f"{mean:.2f}", word]
        if any(cells):
            lines.append(f"| {model} | {method} | {base:.2f} | {' | '.join(cells)} |")
    counts = [f"in {sum(wins)} of {len(wins)} with {name} settings"
              for name, wins in better.items() if wins]  # fmt: skip
    if not counts:
        return []
    return [f"Incoherence is better {', '.join(counts)}.", "", *lines, *notes.lines()]


def gap_of(sweep: Sweep, model: str, method: str, processing: str, settings: str) -> float | None:
    """Returns the fraction by which the perplexity at 2 bits exceeds that at 4."""
    two, four = (mean_perplexity(sweep, model, method, processing, b, settings) for b in "24")
    return two / four - 1 if two and four else None


def gaps(sweep: Sweep, models: Path) -> list[str]:
    """The numbers of the gap chart, a line per model, the smallest first."""
    sizes = {model: parameters(models / model) for model in models_of(sweep)}
    titles = (", ".join(settings) for settings in GAPS)
    lines = header("model", "family", "parameters", *titles, words=2)
    for model, size in sorted(sizes.items(), key=lambda item: item[1]):
        found = (gap_of(sweep, model, GAP_METHOD, *settings) for settings in GAPS)
        cells = ["" if gap is None else f"{gap:.1%}" for gap in found]
        if any(cells):
            start = f"{model} | {family(models / model)} | {size / 1e6:.1f} M"
            lines.append(f"| {start} | {' | '.join(cells)} |")
    return lines


# --- the page ---


def tables(sweep: Sweep, golden: dict, reasons: Reasons, models: Path | None) -> str:
    out = fewer_seeds(sweep)
    for model in models_of(sweep):
        out += [f"### {model}", ""]
        full, theirs = unquantized(sweep, model), golden.get(model, {}).get("fp")
        if full is not None:
            beside = f" ({theirs:.2f})" if theirs else ""
            out += [f"Perplexity; unquantized {full:.2f}{beside}:", ""]
        out += model_table(sweep, golden, model, "perplexity")
        out += ["", "Mean relative proxy loss:", ""]
        out += [*model_table(sweep, golden, model, "proxy"), ""]
        if all(runs.divergence for runs in sweep.values()):
            out += ["KL divergence from the unquantized model, nats a token:", ""]
            out += [*model_table(sweep, golden, model, "divergence"), ""]
    verdicts = incoherence(sweep, reasons)
    if verdicts:
        out += ["### Incoherence against baseline at 2 bits", "", *verdicts, ""]
    if models is not None:
        out += [f"### Two bits against four ({GAP_METHOD})", "", *gaps(sweep, models), ""]
    if golden:
        out += ["### Against the authors' program", "", *comparison(sweep, golden, reasons), ""]
    return "\n".join(out)


def write_table(options: argparse.Namespace) -> None:
    sweep, golden = read_sweep(options.sweep), read_golden(options.golden)
    text = tables(sweep, golden, read_reasons(options.reasons), options.models)
    if options.into is None:
        print(text, end="")
        return
    begin, end = MARKERS
    with reading(options.into):
        before, found, rest = options.into.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{options.into} has no lines '{begin}' and '{end}'")
    options.into.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
