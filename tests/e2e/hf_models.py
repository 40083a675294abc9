"""Small random checkpoints of every family and option, named and stored as transformers does.

What transformers makes of them is in tests/data/transformers.json (tests/references.py).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

import checkpoints

VOCABULARY = 320
LENGTH = 48
SAMPLES = 6
WINDOW = 12  # far below LENGTH, so that a missing window shows

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "opt": "OPTForCausalLM",
}


@dataclass
class Case:
    """One checkpoint to write: its configuration, stored type, and how it is laid out."""

    config: dict
    dtype: str = "F32"
    shard_bytes: int | None = None
    rename: Callable[[str], str] = str


def llama(kind="llama", **options):
    base = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
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
    return base | options


def opt(**options):
    base = {
        "model_type": "opt",
        "architectures": [ARCHITECTURES["opt"]],
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "dropout": 0.0,
    }
    return base | options


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
LATE_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}

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
    "llama-fp16": Case(llama(), "F16"),
    "llama-bf16": Case(llama(), "BF16"),
    "llama-sharded": Case(llama(), "BF16", shard_bytes=60_000),
    "mistral": Case(llama("mistral", num_key_value_heads=2, sliding_window=None)),
    "mistral-window": Case(llama("mistral", num_key_value_heads=2, sliding_window=WINDOW)),
    "mistral-alternating": Case(llama("mistral", sliding_window=WINDOW, layer_types=ALTERNATING)),
    "qwen2": Case(llama("qwen2", num_key_value_heads=2)),
    "qwen2-tied": Case(llama("qwen2", tie_word_embeddings=True)),
    "qwen2-window": Case(llama("qwen2", **LATE_WINDOW | {"max_window_layers": 0})),
    "qwen2-late-window": Case(llama("qwen2", **LATE_WINDOW)),
    "opt": Case(opt()),
    "opt-fp16": Case(opt(), "F16"),
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

# Quantized, exported and then read by transformers: `quip quantize` with these options.
EXPORTS = {
    "llama-nano": ("--bits", 2, "--samples", 16),
    "opt-micro": (
        *("--bits", 2, "--samples", 16, "--processing", "baseline"),
        *("--method", "optq", "--group-size", 48),
    ),
}
EXPORT_ROWS = 64  # of the evaluation set: transformers on a CPU is slow


def llama_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    hidden, inner, heads = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    size = config.get("head_dim", hidden // heads)
    width, key_width = heads * size, config["num_key_value_heads"] * size
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    attention, mlp = config.get("attention_bias", False), config.get("mlp_bias", False)
    inputs = attention or config["model_type"] == "qwen2"
    for block in range(config["num_hidden_layers"]):
        at = f"model.layers.{block}."
        for name, rows, columns, bias in (
            ("self_attn.q_proj", width, hidden, inputs),
            ("self_attn.k_proj", key_width, hidden, inputs),
            ("self_attn.v_proj", key_width, hidden, inputs),
            ("self_attn.o_proj", hidden, width, attention),
            ("mlp.gate_proj", inner, hidden, mlp),
            ("mlp.up_proj", inner, hidden, mlp),
            ("mlp.down_proj", hidden, inner, mlp),
        ):
            shapes[f"{at}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{at}{name}.bias"] = (rows,)
        shapes[at + "input_layernorm.weight"] = (hidden,)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def opt_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    hidden, inner, outer = (
        config[key] for key in ("hidden_size", "ffn_dim", "word_embed_proj_dim")
    )
    shapes = {
        "model.decoder.embed_tokens.weight": (config["vocab_size"], outer),
        "model.decoder.embed_positions.weight": (config["max_position_embeddings"] + 2, hidden),
    }

    def add(name: str, *shape: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def add_norm(name: str) -> None:
        if config.get("layer_norm_elementwise_affine", True):
            add(name, hidden, bias=True)

    if outer != hidden:
        add("model.decoder.project_out", outer, hidden, bias=False)
        add("model.decoder.project_in", hidden, outer, bias=False)
    before = config.get("do_layer_norm_before", True)
    if before and not config.get("_remove_final_layer_norm", False):
        add_norm("model.decoder.final_layer_norm")
    bias = config.get("enable_bias", True)
    for block in range(config["num_hidden_layers"]):
        at = f"model.decoder.layers.{block}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            add(f"{at}self_attn.{name}", hidden, hidden, bias=bias)
        add_norm(at + "self_attn_layer_norm")
        add(at + "fc1", inner, hidden, bias=bias)
        add(at + "fc2", hidden, inner, bias=bias)
        add_norm(at + "final_layer_norm")
    if not config.get("tie_word_embeddings", True):
        add("lm_head", config["vocab_size"], outer, bias=False)
    return shapes


def noise(bits: np.random.PCG64, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, of variance 1. numpy promises the bits for ever, not what it makes of them."""
    raw = bits.random_raw(int(np.prod(shape))) >> np.uint64(11)
    return ((raw * 2.0**-52 - 1.0) * np.sqrt(3.0)).reshape(shape)


def random_tensors(config: dict, seed: int, spread: float) -> dict[str, np.ndarray]:
    """Draws every parameter: defaults of zero and one would hide a bias or norm left out.

    `spread` is about that of the logits: a flat softmax would hide mistakes.
    """
    shapes = opt_shapes(config) if config["model_type"] == "opt" else llama_shapes(config)
    bits = np.random.PCG64(seed)
    tensors = {}
    for name, shape in shapes.items():
        drawn = noise(bits, shape)
        if len(shape) == 1:
            drawn = 0.3 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            ends = "embed_tokens" in name or "lm_head" in name
            drawn *= (spread if ends else 1.2) / np.sqrt(shape[1])
        tensors[name] = drawn.astype("<f4")
    return tensors


def stored(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        bits = values.view("<u4").astype("<u8")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_file(file: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        content = stored(values, dtype)
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += content
    checkpoints.write(file, header, data)


def write_shards(directory: Path, tensors: dict[str, np.ndarray], dtype: str, limit: int) -> None:
    shards, room = [{}], limit
    for name, values in tensors.items():
        size = values.size * (4 if dtype == "F32" else 2)
        if shards[-1] and size > room:
            shards.append({})
            room = limit
        shards[-1][name] = values
        room -= size
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(directory / file, shard, dtype)
        weight_map |= dict.fromkeys(shard, file)
    checkpoints.write_index(directory, weight_map)


def write_model(
    config: dict, directory: Path, seed: int = 7, dtype: str = "F32", spread: float = 2.0
) -> Path:
    """Writes a random checkpoint of one file."""
    return write_case(Case(config, dtype), directory, seed, spread)


def write_case(case: Case, directory: Path, seed: int, spread: float) -> Path:
    directory.mkdir(exist_ok=True)
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    config = case.config | {"torch_dtype": names[case.dtype]}
    (directory / "config.json").write_text(json.dumps(config))
    drawn = random_tensors(case.config, seed, spread)
    tensors = {case.rename(name): values for name, values in drawn.items()}
    if case.shard_bytes is None:
        write_file(directory / "model.safetensors", tensors, case.dtype)
    else:
        write_shards(directory, tensors, case.dtype, case.shard_bytes)
    return directory


def make(
    name: str, directory: Path, seed: int = 7, dtype: str | None = None, spread: float = 2.0
) -> Path:
    """Writes the checkpoint of CASES[name] to `directory`, stored as `dtype` if given."""
    case = CASES[name]
    stored_as = Case(case.config, dtype or case.dtype, case.shard_bytes, case.rename)
    return write_case(stored_as, directory, seed, spread)


def digest(directory: Path) -> str:
    """Tells whether a checkpoint is the one that a reference belongs to."""
    content = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        content.update(file.read_bytes())
    return content.hexdigest()


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
    raw = np.random.PCG64(seed).random_raw(samples * length)
    return (raw % np.uint64(VOCABULARY)).astype(np.int32).reshape(samples, length)


def many_tokens(file: Path, samples: int = 32) -> Path:
    """So many that layers of the families' small models are moved by --target stream."""
    return write_tokens(file, random_tokens(samples=samples, length=96) % 160)


def edit_config(directory: Path, **fields) -> None:
    """Changes fields of config.json; None removes one."""
    file = directory / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
