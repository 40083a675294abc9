"""The input of the report scripts: tables of jobs/sweep.sh, the authors' numbers, checkpoints."""

import csv
import json
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from job_input import InputError, reading

METHODS = ["nearest", "optq", "ldlq", "ldlq-rg", "ldlq-rg:passes=0", "greedy", "ldl-admm"]
PROCESSING = ["baseline", "incoherence"]


@dataclass
class Runs:
    """Rows of a sweep that differ in nothing but their seed."""

    perplexity: list[float] = field(default_factory=list)
    proxy: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)  # empty in tables of earlier versions


Row = tuple[str, str, str, str, str]  # model, method, processing, bits, settings
Sweep = dict[Row, Runs]


def read_sweep(path: Path) -> Sweep:
    sweep: Sweep = defaultdict(Runs)
    names = ("model", "method", "processing", "bits", "settings")
    with reading(path, "a table of jobs/sweep.sh"):
        for row in read_rows(path, "a table of jobs/sweep.sh"):
            if row["method"] != "unquantized":
                int(row["bits"])
            runs = sweep[tuple(row[name] for name in names)]
            runs.perplexity.append(float(row["perplexity"]))
            runs.proxy.append(float(row["mean_relative_proxy_loss"]))
            if "divergence" in row:
                runs.divergence.append(float(row["divergence"]))
    return dict(sweep)


def read_rows(path: Path, kind: str) -> list[dict[str, str]]:
    with reading(path, kind), path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise InputError(f"{path} holds no rows")
    return rows


def values_of(sweep: Sweep, place: int) -> list[str]:
    return list(dict.fromkeys(key[place] for key in sweep if key[1] != "unquantized"))


def models_of(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(key[0] for key in sweep))


def methods_of(sweep: Sweep) -> list[str]:
    found = values_of(sweep, 1)
    return [m for m in METHODS if m in found] + [m for m in found if m not in METHODS]


def bits_of(sweep: Sweep) -> list[str]:
    return sorted(values_of(sweep, 3), key=int, reverse=True)


def unquantized(sweep: Sweep, model: str) -> float | None:
    runs = sweep.get((model, "unquantized", "-", "-", "-"))
    return runs.perplexity[0] if runs else None


def read_golden(directory: Path | None) -> dict:
    if directory is None:
        return {}
    golden = {}
    for file in sorted(directory.glob("*.json")):
        with reading(file, "a file of the authors' numbers"):
            golden[file.stem] = dict(json.loads(file.read_text()))
    if not golden:
        raise InputError(f"{directory} holds no JSON files")
    return golden


@dataclass
class Reasons:
    """Reasons for numbers not as hoped. Each rule: a table's name, four patterns, a sentence."""

    rules: list[list[str]]

    def of(self, table: str, *key: str) -> str:
        """Returns the reason of the first rule that fits model, method, processing and bits."""
        for name, *patterns, reason in self.rules:
            if name == table and all(map(fnmatchcase, key, patterns)):
                return reason
        return "Not known."


def read_reasons(path: Path | None) -> Reasons:
    if path is None:
        return Reasons([])
    names = ("table", "model", "method", "processing", "bits", "reason")
    try:
        return Reasons([[row[n] for n in names] for row in read_rows(path, "a table of reasons")])
    except KeyError as missing:
        raise InputError(f"{path} has no column {missing}") from None


def parameters(model: Path) -> int:
    """Returns the number of elements of a checkpoint's tensors, from the headers of its files."""
    total = 0
    for file in sorted(model.glob("*.safetensors")):
        with reading(file, "a safetensors file of fp32, fp16 or bf16"), file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, file.stat().st_size)))
            header.pop("__metadata__", None)
            for tensor in header.values():
                begin, end = tensor["data_offsets"]
                total += (end - begin) // {"F32": 4, "F16": 2, "BF16": 2}[tensor["dtype"]]
    if total == 0:
        raise InputError(f"{model} holds no safetensors; --models wants the checkpoints' folder")
    return total


def family(model: Path) -> str:
    config = model / "config.json"
    with reading(config, "a model's config.json"):
        return str(json.loads(config.read_text())["model_type"])
