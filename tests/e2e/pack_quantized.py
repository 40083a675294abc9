"""Decodes weights in the pack-quantized format of compressed-tensors, bit by bit as its description
has it: element i of a row has bits i·b to (i + 1)·b - 1 of the row's words, low bits first."""

import json
import re
from pathlib import Path

import numpy as np

import checkpoints

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8"}


def arrays(file: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file whose types are among TYPES; bfloat16 becomes fp32."""
    header, data = checkpoints.read(file)
    found = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in TYPES:
            continue
        values = np.frombuffer(data[slice(*entry["data_offsets"])], TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        found[name] = values.reshape(entry["shape"])
    return found


def unpack(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Signed integers [rows, count] of packed rows."""
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    stream = np.unpackbits(octets, axis=1, bitorder="little")[:, : count * bits]
    digits = stream.reshape(len(words), count, bits).astype(np.int64)
    return (digits << np.arange(bits)).sum(axis=2) - (1 << (bits - 1))


def scheme_of(config: dict, module: str) -> dict:
    """The weights' entry of the group that a module belongs to."""
    groups = list(config["config_groups"].values())
    for group in groups:
        for target in group["targets"]:
            found = target == "Linear" or re.match(target.removeprefix("re:"), module)
            if found and module not in config["ignore"]:
                return group["weights"]
    raise AssertionError(f"no group for {module}")


def decode(directory: Path) -> dict[str, np.ndarray]:
    """Weights of all quantized modules in fp32, by name."""
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized" and config["quant_method"] == "compressed-tensors"
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= arrays(file)
    weights = {}
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        module = name.removesuffix(".weight_packed")
        part = {key: tensors.get(f"{module}.weight_{key}") for key in ("scale", "zero_point")}
        rows, cols = map(int, tensors[f"{module}.weight_shape"])
        scheme = scheme_of(config, module)
        bits = scheme["num_bits"]
        codes = unpack(tensors[name], bits, cols)
        assert codes.shape == (rows, cols)
        groups = part["scale"].shape[1]
        assert groups == (cols // scheme["group_size"] if scheme["strategy"] == "group" else 1)
        zeros = 0
        assert (part["zero_point"] is None) == scheme["symmetric"]
        if part["zero_point"] is not None:
            zeros = unpack(part["zero_point"].T, bits, rows).T.repeat(cols // groups, axis=1)
        scales = part["scale"].astype(np.float32).repeat(cols // groups, axis=1)
        weights[module] = ((codes - zeros) * scales).astype(np.float32)
    return weights
