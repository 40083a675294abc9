#!/usr/bin/env python3
"""Digests of a fixed list of runs: every method, grid, transform and way through the program.

A change that is to leave the bits alone leaves this list alone:
    tests/digests.py > before; (change, build) tests/digests.py | diff before -
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "e2e"))
import cli

METHODS = ("nearest", "ldlq", "optq", "ldlq-rg", "greedy", "ldl-admm")
TRANSFORMS = (
    "kronecker",
    "kronecker-blocked",
    "kronecker-nopermute",
    "hadamard",
    "dense",
    "none",
)

# Options of a run; llama-nano unless --model names another. Those of scalar grids have the scales
# and, unless they say another, the transform of the paper.
SCALAR = ("--codebook", "scalar", "--output-scale", "off")
TRANSFORM = ("--transform", "kronecker")
FP32 = "--scale-type fp32"  # of groups
RUNS = [
    *(
        f"--method {method} --processing {p}"
        for method in METHODS
        for p in ("incoherence", "baseline")
    ),
    *(f"--method {method} --paper --bits 3" for method in METHODS),
    *(f"--transform {transform} --bits 4" for transform in TRANSFORMS),
    *(f"--bits {bits}" for bits in (2, 3, 4, 8)),
    *(f"--processing baseline --group-size {size} --bits 3 {FP32}" for size in (8, 40, 128)),
    f"--processing baseline --group-size 32 --symmetric --bits 3 {FP32}",
    "--processing baseline --symmetric",
    f"--processing baseline --method optq --group-size 32 {FP32}",
    f"--processing baseline --method optq --group-size 32 --groups static {FP32}",
    f"--processing baseline --method optq --group-size 32 --act-order --bits 3 {FP32}",
    "--rescale off",
    "--grid minmax",
    "--processing baseline --grid incoherent --rho 2",
    "--order forward",
    "--clamp pre",
    "--rounding stochastic",
    "--method ldlq --passes 2",
    "--method ldl-admm --passes 2",
    "--damp 0.1 --seed 7",
    "--true-sequential",
    "--wide 0",
    "--wide 0 --method nearest --clamp pre",
    f"--wide 0 --processing baseline --group-size 32 --symmetric {FP32}",
    "--wide 200 --true-sequential",
    "--process-grid 1x1 --wide 0",
    "--skip v_proj",
    "--override down_proj:bits=4,method=optq --override q_proj:transform=hadamard,rho=2.2",
    "--override layers:bits=3,grid=minmax,transform=none,rescale=off,group-size=16,scale-type=fp32",
    *(
        f"--model {model} --bits {bits}"
        for model in ("opt-micro", "llama-micro")
        for bits in (2, 4)
    ),
    "--model opt-micro --method optq --processing baseline --bits 3",
    "--model opt-micro --wide 300 --bits 3",
    "--model llama-micro --transform hadamard --true-sequential --bits 3",
    *(f"--codebook scalar --bits {bits}" for bits in (2, 4)),
    "--codebook scalar --wide 0",
    "--codebook scalar --transform hadamard-128 --bits 3",
    *(f"--codebook trellis --bits {bits}" for bits in (1, 2, 4)),
    "--codebook trellis --method nearest --trellis mcg --bits 3",
    "--codebook trellis --wide 0 --trellis 3inst --bits 3",
    "--model opt-micro --codebook trellis",
    "--for vllm --group-size 32 --override down_proj:bits=8,scale-type=fp16",
    "--target stream",
    "--target stream --wide 200 --drift 0.5",
    "--codebook trellis --target stream --bits 3",
]


def digest(arguments: list[str], ranks: int, folder: Path) -> str:
    options = list(arguments)
    model = "llama-nano"
    if "--model" in options:
        at = options.index("--model")
        model = options[at + 1]
        del options[at : at + 2]
    if "--codebook" not in options:
        settled = {"--transform", "baseline", "--for"} & {*options}
        options += SCALAR if settled else (*SCALAR, *TRANSFORM)
    out = folder / "out"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    cli.quantize(
        cli.model(model),
        out,
        *("--samples", 3, "--progress", "none", "--keep-states", "none"),
        *options,
        ranks=ranks,
        timeout=600,
    )
    return cli.inspect(out)["digest"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--options", default="", help="added to every run, e.g. '--backend cuda'")
    parser.add_argument("--only", default="", help="only runs whose options hold this text")
    arguments = parser.parse_args()
    root = os.environ.get("TMPDIR", "/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        for run in RUNS:
            if arguments.only not in run:
                continue
            options = [*run.split(), *arguments.options.split()]
            print(digest(options, arguments.ranks, Path(folder)), run, flush=True)


if __name__ == "__main__":
    main()
