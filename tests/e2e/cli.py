"""Runs the program as a user would, several ranks under mpirun, and reads what it says."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
QUIP = Path(os.environ.get("QUIP_BINARY", ROOT / "build" / "release" / "bin" / "quip"))

# Set at night (tests/nightly.sh): all combinations, where the default takes some.
THOROUGH = os.environ.get("QUIP_THOROUGH") == "1"

CALIBRATION = DATA / "tokens" / "calib_train.h5"
EVALUATION = DATA / "tokens" / "eval_sherlock.h5"

# Open MPI's own files, apart from those of tests beside this one: a job that ends removes folders
# that another is about to make its own in.
SESSIONS = tempfile.TemporaryDirectory(prefix="quip-mpi-")

# Root and more ranks than cores are normal in a container; idle ranks must not burn a core.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # A failed job's ranks are gone by then: without this mpirun waits a second for each such job.
    "OMPI_MCA_odls_base_sigkill_timeout": "0",
    # Without a binding every rank may use every core, so threads are real threads.
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    # Threads that wait give up their core: beside other work, spinning makes small jobs many times
    # as long.
    "OMP_WAIT_POLICY": "passive",
    "OMPI_MCA_orte_tmpdir_base": SESSIONS.name,
    # A process without mpirun starts no daemon for itself: that would take longer than small jobs.
    "OMPI_MCA_ess_singleton_isolated": "1",
}


def model(name: str) -> Path:
    return DATA / "models" / name


def family(name: str) -> tuple[Path, Path]:
    """A small model of a family, and its tokens."""
    folder = DATA / "families" / name
    return folder, folder / "tokens.h5"


def golden(name: str) -> dict:
    return json.loads((DATA / "golden" / f"{name}.json").read_text())


# What tests quantize with unless they name another: the defaults take several times as long.
QUICK = ("--codebook", "scalar", "--target", "layer")


def with_quick(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Adds what is in QUICK and not among the arguments."""
    command = arguments[0] if arguments else None
    if command not in ("quantize", "quantize-layer", "plan") or "--help" in arguments:
        return arguments
    for option, value in zip(QUICK[::2], QUICK[1::2], strict=True):
        if command == "quantize-layer" and option == "--target":
            continue
        if not any(str(argument).split("=")[0] == option for argument in arguments):
            arguments = (*arguments, option, value)
    return arguments


def run(
    *arguments: object,
    ranks: int = 1,
    threads: int = 1,
    check: bool = True,
    timeout: float = 120,
    prefix: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """`mpirun -n ranks [prefix] quip arguments`, without mpirun for one rank; with `check` a
    failure shows its output."""
    arguments = with_quick(arguments)
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, *prefix, str(QUIP), *map(str, arguments)]
    result = subprocess.run(
        command,
        env=os.environ
        | ENVIRONMENT
        | {"OMP_NUM_THREADS": str(threads), "COLUMNS": "100"}
        | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and result.returncode != 0:
        raise AssertionError(
            f"{' '.join(command)}\nexit {result.returncode}\n{result.stdout}\n{result.stderr}"
        )
    return result


def quantize(checkpoint: Path, out: Path, *options: object, **how) -> Path:
    """Quantizes with the test's calibration set unless `options` name another."""
    tokens = () if "--tokens" in options else ("--tokens", CALIBRATION)
    run("quantize", "--model", checkpoint, "--out", out, *tokens, *options, **how)
    return out


def evaluate(
    checkpoint: Path, tokens: Path = EVALUATION, packed: Path | None = None, samples: int = 0, **how
) -> dict:
    """What `quip eval --json` reports; 0 samples stand for all."""
    extra = () if packed is None else ("--packed", packed)
    extra += ("--samples", samples) if samples else ()
    result = run("eval", "--model", checkpoint, *extra, "--tokens", tokens, "--json", **how)
    return json.loads(result.stdout)


def inspect(packed: Path, *options: object) -> dict:
    return json.loads(run("inspect", packed, "--json", *options).stdout)


def mean_relative_proxy(packed: Path) -> float:
    layers = inspect(packed)["layers"]
    return sum(layer["relative_proxy_loss"] for layer in layers) / len(layers)
