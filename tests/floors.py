#!/usr/bin/env python3
"""Resolves every include of src and include: each floor uses only those below it."""

import re
import sys
from pathlib import Path

# From the bottom up. A folder that stands here with its own folder is a floor of its own.
FLOORS = [
    "core",
    "comm",
    "io",
    "linalg",
    "quant/trellis",
    "quant/transform",
    "quant/code",
    "quant/options",
    "quant/factor",
    "quant/round",
    "quant",
    "backend",
    "model",
    "calib",
    "store",
    "pipeline",
    "plan",
    "cli",
]
INCLUDE = re.compile(r'^\s*#\s*include "([^"]+)"', re.MULTILINE)


def floor_of(path: Path) -> int:
    """The number of the floor on which a file (relative to a root) lives."""
    for folder in path.parents:
        if folder.as_posix() in FLOORS:
            return FLOORS.index(folder.as_posix())
    raise SystemExit(f"floors.py: {path}: in no known folder; add it to FLOORS in tests/floors.py")


def mistakes_in(file: Path, root: Path, roots: dict[str, Path]) -> list[str]:
    found = []
    here = file.relative_to(root)
    for name in INCLUDE.findall(file.read_text()):
        if ".." in Path(name).parts:
            found.append(f'{file}: "{name}" climbs: name the file from src/ or include/')
            continue
        beside = file.parent / name
        if name.startswith("quip/"):
            target, relative = roots["include"] / name[5:], Path(name[5:])
        elif "/" not in name or beside.is_file():
            target, relative = beside, here.parent / name
        else:
            target, relative = roots["src"] / name, Path(name)
        if not target.is_file():
            found.append(f'{file}: "{name}" is nowhere')
        elif floor_of(relative) > floor_of(here):
            floors = f"{FLOORS[floor_of(here)]} lies below {FLOORS[floor_of(relative)]}"
            found.append(f'{file}: "{name}": {floors}')
    return found


def main() -> int:
    top = Path(__file__).resolve().parent.parent
    roots = {"src": top / "src", "include": top / "include" / "quip"}
    found = []
    for root in roots.values():
        for file in sorted(root.rglob("*")):
            if file.suffix in (".cpp", ".hpp", ".cu"):
                found += mistakes_in(file, root, roots)
    for line in found:
        print(line.replace(f"{top}/", ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
