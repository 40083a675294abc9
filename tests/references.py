#!/usr/bin/env python3
"""Computes what transformers makes of the tests' checkpoints: tests/data/transformers.json.

Run it when a case of tests/e2e/hf_models.py is new or changed, and only then, in an environment
with torch and transformers 4.46 (no test needs them), after quip is built:

  tests/references.py
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
sys.path.append(str(ROOT / "tests" / "e2e"))

import tasks  # noqa: E402

import cli  # noqa: E402
import hf_models  # noqa: E402

WINDOWED = ("mistral-window", "mistral-alternating", "qwen2-window", "qwen2-late-window")


def load(directory: Path, **overrides):
    """The checkpoint in fp32; eager attention is the one that applies sliding windows."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, attn_implementation="eager", **overrides
    ).eval()
    if getattr(model.config, "sliding_window", None) is not None:
        for layer in model.model.layers[: first_windowed(model.config)]:
            attend_to_everything(layer)
        for layer, kind in zip(model.model.layers, layer_types(model.config), strict=False):
            if kind == "full_attention":
                attend_to_everything(layer)
    return model


def first_windowed(config) -> int:
    return config.max_window_layers if config.model_type == "qwen2" else 0


def layer_types(config) -> list[str]:
    return getattr(config, "layer_types", None) or []


def attend_to_everything(layer: torch.nn.Module) -> None:
    """Undoes the window of one block. transformers 4.46 windows all blocks of a model; by the
    meaning of `max_window_layers` and `layer_types` (and in later versions) some have none."""
    forward = layer.forward

    def without_window(hidden, attention_mask=None, **others):
        length = hidden.shape[1]
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)
        return forward(hidden, attention_mask=mask[None, None], **others)

    layer.forward = without_window


def mean_loss(model: torch.nn.Module, ids: np.ndarray, batch: int = 16) -> float:
    """Mean cross entropy in nats over the length - 1 predictions of every row."""
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(ids), batch):
            rows = torch.from_numpy(ids[first : first + batch].astype(np.int64))
            logits = model(rows).logits[:, :-1].double()
            total += torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1), reduction="sum"
            ).item()
    return total / (ids.shape[0] * (ids.shape[1] - 1))


def scores(model, item) -> list:
    """[log-likelihood, whether greedy decoding says the same] per continuation."""
    found = []
    for continuation in tasks.continuations(item):
        ids = torch.tensor([item["context"] + continuation])
        with torch.no_grad():
            logits = model(ids).logits[0, len(item["context"]) - 1 : -1].double()
        wanted = torch.tensor(continuation)
        chances = torch.log_softmax(logits, 1).gather(1, wanted[:, None])
        same = bool((logits.argmax(1) == wanted).all())
        found.append([round(chances.sum().item(), 8), same])
    return found


def of_case(name: str, ids: np.ndarray, folder: Path) -> dict:
    checkpoint = hf_models.make(name, folder)
    model = load(checkpoint)
    result = {"weights": hf_models.digest(checkpoint), "mean_loss": mean_loss(model, ids)}
    if name in WINDOWED:
        result["without_window"] = mean_loss(load(checkpoint, sliding_window=None), ids)
    if name in tasks.VARIED:
        result["scores"] = [scores(model, item) for item in tasks.varied_items()]
    return result


def of_export(name: str, folder: Path) -> float:
    packed = cli.quantize(cli.model(name), folder / "packed", *hf_models.EXPORTS[name])
    exported = folder / "exported"
    cli.run("export", "--packed", packed, "--model", cli.model(name), "--out", exported)
    ids = hf_models.read_tokens(cli.EVALUATION)[: hf_models.EXPORT_ROWS]
    return mean_loss(load(exported), ids)


def main() -> None:
    transformers.logging.set_verbosity_error()
    ids = hf_models.random_tokens()
    nano = load(DATA / "models" / "llama-nano")
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / name for name in (*hf_models.CASES, *hf_models.EXPORTS)}
        for place in places.values():
            place.mkdir()
        cases = {name: of_case(name, ids, places[name]) for name in hf_models.CASES}
        exports = {name: of_export(name, places[name]) for name in hf_models.EXPORTS}
    result = {
        "transformers": transformers.__version__,
        "cases": cases,
        "exports": exports,
        "sherlock": [scores(nano, item) for item in tasks.read_lines(tasks.SHERLOCK)],
    }
    lines = json.dumps(result, indent=1)
    (DATA / "transformers.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
