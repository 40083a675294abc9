"""The EXL3 format taken apart in numpy: from an export back to a checkpoint with plain weights."""

import json
from pathlib import Path

import numpy as np

import checkpoints

BLOCK = 128  # inputs or outputs that a Hadamard transform mixes
MULTIPLIERS = {"mul1": 0x83DCD12D, "mcg": 0xCBAC1FED}


def half(bits: np.ndarray | int) -> np.ndarray:
    return np.asarray(bits, "<u2").view("<f2")


def codebook(kind: str) -> np.ndarray:
    """The value of each of the 65536 states."""
    x = np.arange(65536, dtype=np.uint64)
    if kind == "mul1":
        x = (x * np.uint64(MULTIPLIERS[kind])).astype("<u4")
        total = x.view("u1").reshape(-1, 4).sum(1, dtype=np.float64)  # of the four bytes
        # A fused multiply-add of halves: exact in fp64, then rounded once.
        return ((1024 + total) * float(half(0x1EEE)) + float(half(0xC931))).astype("<f2")
    if kind == "mcg":
        x = x * np.uint64(MULTIPLIERS[kind])
    else:
        x = x * np.uint64(89226354) + np.uint64(64248484)
    pair = half(((x.astype("<u4") & 0x8FFF8FFF) ^ 0x3B603B60).view("<u2").reshape(-1, 2))
    return pair[:, 0] + pair[:, 1]


def hadamard() -> np.ndarray:
    """Sylvester's matrix, orthogonal."""
    h = np.ones((1, 1))
    while len(h) < BLOCK:
        h = np.kron([[1, 1], [1, -1]], h)
    return h / np.sqrt(BLOCK)


def states(trellis: np.ndarray) -> np.ndarray:
    """The 256 states of every tile: the 16 bits of its stream that end with those of the step."""
    bits = trellis.shape[-1] // 16
    words = trellis.reshape(-1, 2)[:, ::-1].astype(">u2")
    stream = np.unpackbits(words.view("u1").reshape(-1, 32 * bits), axis=1)
    ring = np.concatenate([stream[:, -16:], stream], axis=1)  # the stream bites its tail
    windows = (np.arange(1, 257) * bits)[:, None] + np.arange(16)
    return ring[:, windows] @ (1 << np.arange(15, -1, -1))


def decode(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """W [outputs, inputs] of one layer, padding included; `tensors` by the ends of their names."""
    trellis = tensors["trellis"]
    inputs, outputs, words = trellis.shape
    kind = next((kind for kind in MULTIPLIERS if kind in tensors), "3inst")
    values = codebook(kind)[states(trellis)].astype(float)
    step = np.arange(256)
    tiles = np.empty((len(values), 16, 16))
    tiles[
        :,
        step // 8 % 4 * 2 + step % 2 + step // 2 % 2 * 8,  # input
        step // 32 + step // 4 % 2 * 8,  # output
    ] = values
    w = tiles.reshape(inputs, outputs, 16, 16).swapaxes(1, 2).reshape(inputs * 16, outputs * 16)
    h = hadamard()
    w = (h @ w.reshape(-1, BLOCK, w.shape[1])).reshape(w.shape)
    w = (w.reshape(len(w), -1, BLOCK) @ h).reshape(w.shape)
    suh, svh = tensors["suh"].astype(float), tensors["svh"].astype(float)
    return (suh[:, None] * w * svh).T


def read(directory: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of all tensors."""
    found = {}
    for file in directory.glob("*.safetensors"):
        header, data = checkpoints.read(file)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            content = data[slice(*entry["data_offsets"])]
            found[name] = (entry["dtype"], entry["shape"], content)
    return found


TYPES = {"I16": "<i2", "I32": "<i4", "F16": "<f2", "F32": "<f4"}


def layers(tensors: dict) -> dict[str, dict[str, np.ndarray]]:
    """The tensors of each quantized layer."""
    found = {name[: -len(".trellis")]: {} for name in tensors if name.endswith(".trellis")}
    for name, (dtype, shape, content) in tensors.items():
        layer, _, part = name.rpartition(".")
        if layer in found:
            found[layer][part] = np.frombuffer(content, TYPES[dtype]).reshape(shape)
    return found


def write_plain(exported: Path, shapes: dict[str, list[int]], directory: Path) -> Path:
    """Writes a checkpoint with the weights that an export stands for, cut to `shapes`."""
    tensors = read(exported)
    for layer, parts in layers(tensors).items():
        for part in parts:
            del tensors[f"{layer}.{part}"]
        rows, cols = shapes[f"{layer}.weight"]
        weights = decode(parts)[:rows, :cols]
        tensors[f"{layer}.weight"] = ("F32", [rows, cols], weights.astype("<f4").tobytes())
        if "bias" in parts:
            bias = parts["bias"][:rows].astype("<f4")
            tensors[f"{layer}.bias"] = ("F32", [rows], bias.tobytes())
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    directory.mkdir()
    checkpoints.write(directory / "model.safetensors", header, data)
    config = json.loads((exported / "config.json").read_text())
    del config["quantization_config"]
    if "lm_head.weight" in tensors:
        config["tie_word_embeddings"] = False
    (directory / "config.json").write_text(json.dumps(config))
    return directory
