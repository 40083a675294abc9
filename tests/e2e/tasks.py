"""Task files for `quip eval-tasks`, and what transformers says of them."""

import json
from pathlib import Path

import hf_models

DATA = Path(__file__).resolve().parents[1] / "data"
SHERLOCK = DATA / "tasks" / "sherlock.jsonl"
VARIED = ("mistral-window", "qwen2", "opt-350m-like", "llama-mqa")


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def continuations(item):
    return item["choices"] if "choices" in item else [item["target"]]


def varied_items():
    """Sequences of very different lengths."""
    ids = hf_models.random_tokens(length=64).tolist()
    return [
        {
            "context": row[:begin],
            "choices": [row[begin : begin + 1], row[begin:end]],
            "lengths": [1, 2],
            "answer": 0,
        }
        for row, begin, end in zip(ids, (1, 63, 5, 40, 20, 2), (64, 64, 7, 50, 64, 3), strict=True)
    ]
