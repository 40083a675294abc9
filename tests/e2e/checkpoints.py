"""Damages copies of a checkpoint, byte by byte: the safetensors format taken apart by hand."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def read(file: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(file: Path, header: dict, data: bytes, length: int | None = None) -> None:
    """Writes a safetensors file; `length` is a lie about the length of the header."""
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def edit_tensor(directory: Path, name: str, change: Callable[[dict], object]) -> None:
    """Applies `change` to the header's entry of one tensor."""
    file = directory / "model.safetensors"
    header, data = read(file)
    change(header[name])
    write(file, header, data)


def overwrite(directory: Path, name: str, position: int, value: bytes) -> None:
    """Replaces bytes of a tensor's data."""
    file = directory / "model.safetensors"
    header, data = read(file)
    begin = header[name]["data_offsets"][0] + position
    write(file, header, data[:begin] + value + data[begin + len(value) :])


def shard(directory: Path) -> list[Path]:
    """Splits model.safetensors into two shards with an index."""
    file = directory / "model.safetensors"
    header, data = read(file)
    names = sorted(name for name in header if name != "__metadata__")
    files = [directory / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {}
    for shard_file, part in zip(files, (names[::2], names[1::2]), strict=True):
        entries, payload = {}, b""
        for name in part:
            begin, end = header[name]["data_offsets"]
            offsets = [len(payload), len(payload) + end - begin]
            entries[name] = header[name] | {"data_offsets": offsets}
            payload += data[begin:end]
            index[name] = shard_file.name
        write(shard_file, entries, payload)
    file.unlink()
    write_index(directory, index)
    return files


def index_of(directory: Path) -> dict:
    return json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]


def write_index(directory: Path, weight_map: dict) -> None:
    content = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))
