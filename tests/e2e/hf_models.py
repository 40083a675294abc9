"""Small random checkpoints of every family and option, and their loss by transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, MistralConfig, OPTConfig, Qwen2Config

VOCABULARY = 320
LENGTH = 48
SAMPLES = 6
WINDOW = 12  # far below LENGTH, so that a missing window shows


@dataclass
class Case:
    """One checkpoint to write: its configuration, stored type, and how it is laid out."""

    config: Callable[[], transformers.PretrainedConfig]
    dtype: torch.dtype = torch.float32
    save: dict = field(default_factory=dict)
    rename: Callable[[str], str] | None = None


def llama(kind=LlamaConfig, **options):
    base = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    return lambda: kind(**(base | options))


def opt(**options):
    base = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "dropout": 0.0,
    }
    return lambda: OPTConfig(**(base | options))


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CASES = {
    "llama": Case(llama()),
    "llama-gqa": Case(llama(num_key_value_heads=2)),
    "llama-mqa": Case(llama(num_key_value_heads=1)),
    "llama-head-dim": Case(llama(head_dim=24)),
    "llama-theta": Case(llama(rope_theta=500000.0)),
    "llama-linear-rope": Case(llama(rope_scaling={"rope_type": "linear", "factor": 4.0})),
    "llama-old-linear-rope": Case(llama(rope_scaling={"type": "linear", "factor": 4.0})),
    "llama-llama3-rope": Case(llama(rope_scaling=LLAMA3_SCALING)),
    "llama-attention-bias": Case(llama(attention_bias=True, num_key_value_heads=2)),
    "llama-mlp-bias": Case(llama(mlp_bias=True)),
    "llama-tied": Case(llama(tie_word_embeddings=True)),
    "llama-epsilon": Case(llama(rms_norm_eps=0.1)),
    "llama-fp16": Case(llama(), torch.float16),
    "llama-bf16": Case(llama(), torch.bfloat16),
    "llama-sharded": Case(llama(), torch.bfloat16, {"max_shard_size": "60KB"}),
    "mistral": Case(llama(MistralConfig, num_key_value_heads=2, sliding_window=None)),
    "mistral-window": Case(llama(MistralConfig, num_key_value_heads=2, sliding_window=WINDOW)),
    "qwen2": Case(llama(Qwen2Config, num_key_value_heads=2)),
    "qwen2-tied": Case(llama(Qwen2Config, tie_word_embeddings=True)),
    "qwen2-window": Case(
        llama(Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=0)
    ),
    "qwen2-late-window": Case(
        llama(Qwen2Config, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
    ),
    "opt": Case(opt()),
    "opt-fp16": Case(opt(), torch.float16),
    "opt-untied": Case(opt(tie_word_embeddings=False)),
    "opt-gelu": Case(opt(activation_function="gelu")),
    "opt-no-bias": Case(opt(enable_bias=False)),
    "opt-no-affine": Case(opt(layer_norm_elementwise_affine=False)),
    "opt-no-final-norm": Case(opt(_remove_final_layer_norm=True)),
    "opt-post-norm": Case(opt(do_layer_norm_before=False)),
    "opt-projected": Case(opt(word_embed_proj_dim=32)),
    "opt-350m-like": Case(opt(word_embed_proj_dim=32, do_layer_norm_before=False)),
    "opt-bare-names": Case(opt(), rename=lambda name: name.removeprefix("model.")),
}


def randomise(model: torch.nn.Module, seed: int, spread: float = 2.0) -> None:
    """Draws every parameter: defaults of zero and one would hide a bias or norm left out.

    `spread` is about that of the logits: a flat softmax would hide mistakes.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.dim() == 1:
                offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(offset + 0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(noise * spread / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(noise * 1.2 / parameter.shape[1] ** 0.5)


def make(
    name: str,
    directory: Path,
    seed: int = 7,
    dtype: torch.dtype | None = None,
    spread: float = 2.0,
) -> Path:
    """Writes the checkpoint of CASES[name] to `directory`, stored as `dtype` if given."""
    case = CASES[name]
    model = transformers.AutoModelForCausalLM.from_config(case.config())
    randomise(model, seed, spread)
    model.to(dtype or case.dtype).save_pretrained(directory, safe_serialization=True, **case.save)
    if case.rename is not None:
        file = directory / "model.safetensors"
        tensors = {case.rename(key): value for key, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return directory


def load(directory: Path, **overrides):
    """The checkpoint in fp32; eager attention is the one that applies sliding windows."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, attn_implementation="eager", **overrides
    ).eval()
    first_windowed = getattr(model.config, "max_window_layers", 0)
    if model.config.model_type == "qwen2" and model.config.sliding_window is not None:
        for layer in model.model.layers[:first_windowed]:
            attend_to_everything(layer)
    return model


def attend_to_everything(layer: torch.nn.Module) -> None:
    """Undoes the window of one block. transformers 4.46 windows all blocks of a Qwen2 model;
    by the meaning of `max_window_layers` (and in later versions) the first ones have none."""
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


def write_tokens(file: Path, ids: np.ndarray) -> Path:
    with h5py.File(file, "w") as out:
        out["input_ids"] = ids.astype(np.int32)
        out["input_ids"].attrs["tokenizer"] = "none"
        out["input_ids"].attrs["source"] = "random"
    return file


def read_tokens(file: Path) -> np.ndarray:
    with h5py.File(file) as source:
        return source["input_ids"][:]


def random_tokens(seed: int = 11, samples: int = SAMPLES, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (samples, length), dtype=np.int32)


def edit_config(directory: Path, **fields) -> None:
    """Changes fields of config.json; None removes one."""
    file = directory / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
