"""What the scripts that read texts share: the tokenizer, and mistakes as one clear line."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer


class InputError(Exception):
    """Something the user can mend; the message is all they see."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Failures to read a text, by the name of its file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason})") from None


def open_tokenizer(model: Path) -> tuple[Tokenizer, Path]:
    """The tokenizer of a checkpoint, as it is without a limit on length, and its file."""
    file = model / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{file} is not there; --model wants a checkpoint's directory")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, file


def special_ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text (often a beginning-of-text token)."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    for first in range(len(full) - len(plain) + 1):
        if full[first : first + len(plain)] == plain:
            return full[:first], full[first + len(plain) :]
    return [], []


def run_job(script: str, run: Callable[[argparse.Namespace], None], options) -> int:
    """The script's exit status: 1 with one line on stderr for an InputError."""
    try:
        run(options)
    except InputError as failure:
        print(f"{Path(script).name}: error: {failure}", file=sys.stderr)
        return 1
    return 0
