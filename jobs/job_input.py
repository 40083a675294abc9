"""The common part of the Python jobs: their packages, and mistakes as one clear line."""

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError),
    *(csv.Error, struct.error),
)


class InputError(Exception):
    """Something the user can mend; the message is all they see."""


def need(*packages: str) -> None:
    """Goes on in .venv if this Python lacks a package; without .venv ends with one line."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return
    python = VENV / "bin" / "python"
    if python.is_file() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])
    sys.exit(
        f"{Path(sys.argv[0]).name}: error: this Python lacks {', '.join(missing)}; "
        "jobs/install-deps.sh --venv makes .venv, in which this script then runs"
    )


def quip_program() -> str:
    """Returns the program that QUIP names, or this checkout's build, or quip from the PATH."""
    built = ROOT / "build" / "release" / "bin" / "quip"
    return os.environ.get("QUIP") or (str(built) if os.access(built, os.X_OK) else "quip")


@contextlib.contextmanager
def reading(path: Path, kind: str = "") -> Iterator[None]:
    """Names the file that cannot be read: a text with the line that is not UTF-8, or with `kind`
    ("a report.json") whatever is not formed like one."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except MALFORMED as error:
        if kind:
            raise InputError(f"{path} is not {kind}") from None
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"{undecodable(path)} is not UTF-8 text ({error.reason})") from None
        raise


def undecodable(path: Path) -> str:
    """Returns the place, path:line, of the first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"{path}:{number}"
    return str(path)  # a pipe, which cannot be read again


def json_object(line: str, where: str, hint: str = "") -> dict:
    """Parses one line of JSONL. JSON may escape half of a surrogate pair, which is no character."""
    try:
        record = json.loads(line)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise InputError(f"{where} holds \\u{code:04x}, half of a surrogate pair") from None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{where} is not a JSON object{hint}")
    return record


def check_folder(out: Path) -> None:
    """Refuses a file to write whose folder is not there, before any work is done for it."""
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: {out.parent} is not a directory")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """Yields a temporary name and renames it in the end: a file that is there is whole."""
    partial = out.with_name(out.name + ".partial")
    try:
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from None


def run_job(script: str, run: Callable[[argparse.Namespace], None], options) -> int:
    """Returns the script's exit status: 1, with one line on stderr, for mistakes and full disks."""
    try:
        run(options)
    except (InputError, OSError) as failure:
        print(f"{Path(script).name}: error: {failure}", file=sys.stderr)
        return 1
    return 0
