"""What the authors' own program achieves beside our rows, and why some numbers differ."""

import math
import statistics
from dataclasses import dataclass

from sweep_data import Reasons, Row, Sweep, models_of

# The authors' lazy-batch code path makes no greedy passes after LDLQ-RG.
SAME_SETTINGS = {"ldlq-rg": "ldlq-rg:passes=0"}


class Notes:
    """Reasons that a table refers to by number and that are listed below it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def number(self, reason: str) -> int:
        if reason not in self.found:
            self.found.append(reason)
        return self.found.index(reason) + 1

    def lines(self) -> list[str]:
        listed = [f"{k}. {reason}" for k, reason in enumerate(self.found, 1)]
        return ["", *listed] if listed else []


def header(*titles: str, words: int) -> list[str]:
    """A table's head; columns after the first `words` hold numbers."""
    rule = ["---"] * words + ["--:"] * (len(titles) - words)
    return ["| " + " | ".join(titles) + " |", "|" + "|".join(rule) + "|"]


def our_row(model: str, key: str) -> Row:
    """The row of a sweep that a key of a golden file speaks of."""
    method, bits, processing = key.split(",")
    return model, SAME_SETTINGS.get(method, method), processing, bits, "paper"


def golden_values(golden: dict, row: Row, name: str) -> list[float] | None:
    """The authors' numbers for one of our rows."""
    model = row[0]
    for key, values in golden.get(model, {}).items():
        if key != "fp" and our_row(model, key) == row:
            return values[name]
    return None


@dataclass
class Difference:
    """One number of the authors' program beside ours."""

    ours: list[float]
    authors: list[float]
    limit: float

    @property
    def relative(self) -> float:
        return statistics.mean(self.ours) / statistics.mean(self.authors) - 1

    @property
    def missed(self) -> bool:
        return abs(self.relative) > self.limit

    @property
    def standard_errors(self) -> str:
        """The difference as a multiple of what chance makes of it; empty without seeds."""
        if min(len(self.ours), len(self.authors)) < 2:
            return ""
        variances = (statistics.variance(v) / len(v) for v in (self.ours, self.authors))
        difference = statistics.mean(self.ours) - statistics.mean(self.authors)
        return f"{difference / math.sqrt(sum(variances)):+z.1f}"

    def text(self, digits: int) -> list[str]:
        means = (statistics.mean(values) for values in (self.ours, self.authors))
        return [*(f"{mean:.{digits}f}" for mean in means), f"{self.relative:+z.1%}"]


Differences = dict[tuple[str, str, str, str], Difference | None]


def allowance(bits: str, processing: str) -> float:
    """Seeds mean different transforms here and there; the authors' fp16 tells most at 2 bits."""
    if processing == "incoherence":
        return 0.02
    return 0.03 if bits == "2" else 0.01


def differences(sweep: Sweep, golden: dict, number: str, name: str) -> Differences:
    """By model, processing, the authors' method and bits; None where we have not run it."""
    found: Differences = {}
    models = [model for model in models_of(sweep) if model in golden]
    for model in models + [model for model in golden if model not in models]:
        for text in (key for key in golden[model] if key != "fp"):
            method, bits, processing = text.split(",")
            runs = sweep.get(our_row(model, text))
            found[model, processing, method, bits] = runs and Difference(
                getattr(runs, number), golden[model][text][name], allowance(bits, processing)
            )
    return found


def comparison(sweep: Sweep, golden: dict, reasons: Reasons) -> list[str]:
    """Every row of the authors' program beside ours, and why some differ more than allowed."""
    perplexity = differences(sweep, golden, "perplexity", "ppl")
    proxy = differences(sweep, golden, "proxy", "mean_rel_proxy")
    done = [d for d in perplexity.values() if d]
    missed = sum(d.missed for d in done)
    lines = [
        f"Perplexities, ours / the authors'. Of {len(perplexity)} rows {len(done)} were run; "
        f"{len(done) - missed} are within their allowance, {missed} are beyond it (bold).",
        "",
        *side_by_side(perplexity),
    ]
    notes = Notes()
    for title, found, digits in (("Perplexities", perplexity, 2), ("Mean losses", proxy, 4)):
        beyond = {key: d for key, d in found.items() if d and d.missed}
        if beyond:
            lines += ["", f"{title} beyond their allowance:", ""]
            lines += misses(beyond, digits, reasons, notes)
    return lines + notes.lines()


def side_by_side(found: Differences) -> list[str]:
    """A line per model, processing and method, a column for every number of bits."""
    bits_list = sorted({key[3] for key in found}, key=int, reverse=True)
    lines = header(
        "model", "processing", "authors' method", *(f"{b} bits" for b in bits_list), words=3
    )
    for row in dict.fromkeys(key[:3] for key in found):
        cells = []
        for bits in bits_list:
            d = found.get((*row, bits))
            text = "{} / {}, {}".format(*d.text(2)) if d else ""
            cells.append(f"**{text}**" if d and d.missed else text)
        lines.append(f"| {' | '.join([*row, *cells])} |")
    return lines


def misses(found: Differences, digits: int, reasons: Reasons, notes: Notes) -> list[str]:
    titles = ("model", "processing", "authors' method", "bits", "ours", "authors'", "difference",
              "allowance", "standard errors", "reason")  # fmt: skip
    lines = header(*titles, words=3)
    for (model, processing, method, bits), d in found.items():
        reason = notes.number(reasons.of("authors", model, method, processing, bits))
        cells = [model, processing, method, bits, *d.text(digits), f"{d.limit:.0%}"]
        lines.append(f"| {' | '.join(cells)} | {d.standard_errors} | {reason} |")
    return lines
