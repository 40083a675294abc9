#!/usr/bin/env python3
"""Prints the loss by transformers of a checkpoint: loss.py DIR IDS.npy [dequantize].

Runs in the environment that jobs/install-deps.sh --engines makes.
"""

import sys

import numpy as np
import torch
import transformers


def main(directory: str, ids: str, *how: str) -> None:
    loading = {}
    if how:
        loading["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **loading
    ).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in torch.tensor(np.load(ids)).long():
            logits = model(row[None]).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum").item()
            count += len(row) - 1
    print(total / count)


if __name__ == "__main__":
    main(*sys.argv[1:])
