"""A checkpoint's tokenizer, as the jobs that read texts use it."""

from pathlib import Path

from job_input import InputError
from tokenizers import Encoding, Tokenizer


def open_tokenizer(model: Path) -> tuple[Tokenizer, Path]:
    """Returns the tokenizer of a checkpoint, without a limit on length, and its file."""
    file = model / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{file} is not there; --model wants a checkpoint's directory")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises no narrower type
        raise InputError(
            f"{file} is damaged, or newer than the package tokenizers here ({one_line(error)})"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, file


def encode(tokenizer: Tokenizer, text: str, special: bool = False) -> Encoding:
    try:
        return tokenizer.encode(text, add_special_tokens=special)
    except Exception as error:  # the package raises no narrower type
        raise InputError(f"the tokenizer cannot encode the text ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def special_ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Returns what the tokenizer puts before and after a text (often a beginning-of-text token)."""
    plain = encode(tokenizer, "a").ids
    full = encode(tokenizer, "a", special=True).ids
    for first in range(len(full) - len(plain) + 1):
        if full[first : first + len(plain)] == plain:
            return full[:first], full[first + len(plain) :]
    return [], []
