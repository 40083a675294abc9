#!/usr/bin/env python3
"""Turns text into a token set: HDF5 `input_ids`, int32 [samples, length].

Calibration draws random windows from the text; evaluation (--sequential) cuts it into
consecutive rows. It runs in the environment that `jobs/install-deps.sh --venv` makes:

  jobs/tokenize.py c4.jsonl --field text --model DIR --out calibration.h5
"""

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.append(sys.path.pop(0))  # Python's own module `tokenize` comes before this one
    from job_input import need

    need("h5py", "numpy", "tokenizers")

import argparse
import array
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from job_input import InputError, check_folder, json_object, reading, run_job, writing
from text_tokens import encode, open_tokenizer, special_ends
from tokenizers import Tokenizer

PIECE = 1 << 20  # characters encoded at once
OVERLAP = 1 << 12  # characters that neighbouring pieces share
AGREEMENT = 16  # tokens in a row on which both encodings of an overlap must agree


def documents(path: Path, field: str | None) -> Iterator[Iterator[str]]:
    """Yields a file's documents, each as pieces of text: one for plain text, one per JSONL line."""
    if field is None:
        yield pieces_of(path)
        return
    with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield iter([json_text(line, field, f"{path}:{number}")])


def pieces_of(path: Path) -> Iterator[str]:
    with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        yield from iter(lambda: file.read(PIECE), "")


def json_text(line: str, field: str, where: str) -> str:
    record = json_object(line, where, hint="; plain text goes without --field")
    if field not in record:
        raise InputError(f"{where} has no field '{field}'; name the one that holds the text")
    value = record[field]
    if not isinstance(value, str):
        raise InputError(f"{where}: field '{field}' is not a string")
    return value


def document_tokens(tokenizer: Tokenizer, pieces: Iterator[str], special: bool) -> Iterator[int]:
    """Yields the token ids of one document, as if it were encoded whole, in bounded memory.

    A cut through the text changes tokens near it. So each piece is encoded together with the
    end of the one before, and the stream passes to the new encoding where the two agree.
    """
    text, start, tail = next(pieces, ""), 0, []  # `tail`: (id, begin, end) not yet passed on
    added = special_ends(tokenizer) if special else ([], [])
    yield from added[0]
    while True:
        encoding = encode(tokenizer, text)
        tokens = [
            (token, start + begin, start + end)
            for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        if tail:
            upto, since = seam(tail, tokens, start)
            yield from (token for token, _, _ in tail[:upto])
            tokens = tokens[since:]
        following = next(pieces, "")
        if not following:
            yield from (token for token, _, _ in tokens)
            yield from added[1]
            return
        end = start + len(text)
        keep = next((i for i, token in enumerate(tokens) if token[2] > end - OVERLAP), len(tokens))
        yield from (token for token, _, _ in tokens[:keep])
        tail = tokens[keep:]
        shared = text[-OVERLAP:]
        start, text = end - len(shared), shared + following


def seam(old: list[tuple], new: list[tuple], start: int) -> tuple[int, int]:
    """Returns the positions at which to leave `old` for `new`, amid their first agreement."""
    where = {token: index for index, token in enumerate(new)}
    run, previous = 0, -1
    for index, token in enumerate(old):
        at = where.get(token, -1)
        run = 0 if at < 0 else run + 1 if at == previous + 1 else 1
        previous = at
        if run == AGREEMENT:
            half = AGREEMENT // 2
            return index - half + 1, at - half + 1
    raise InputError(
        f"the tokenizer does not resume within {OVERLAP} characters around character {start}; "
        "split the text into documents and use --field"
    )


def all_tokens(options: argparse.Namespace, tokenizer: Tokenizer) -> Iterator[int]:
    for document in documents(options.text, options.field):
        yield from document_tokens(tokenizer, document, not options.no_special_tokens)


def sequential_rows(tokens: Iterator[int], samples: int | None, length: int) -> np.ndarray:
    """Returns consecutive rows without overlap; an incomplete last row is dropped."""
    wanted = None if samples is None else samples * length
    ids = array.array("i", itertools.islice(tokens, wanted))
    rows = len(ids) // length
    if rows == 0 or (samples is not None and rows < samples):
        need = (samples or 1) * length
        raise InputError(f"too little text: {len(ids)} tokens, but {need} are needed")
    return np.frombuffer(ids, dtype=np.int32)[: rows * length].reshape(rows, length)


def random_rows(tokens: Iterator[int], samples: int, length: int, seed: int) -> np.ndarray:
    """Returns windows at uniformly random places; they may overlap, as in OPTQ's calibration.
    Prints a note if they hold more tokens than the text."""
    ids = np.frombuffer(array.array("i", tokens), dtype=np.int32)
    if len(ids) < length:
        raise InputError(
            f"too little text: {len(ids)} tokens, but {length} are needed for one sample"
        )
    draw = random.Random(seed)
    starts = [draw.randrange(len(ids) - length + 1) for _ in range(samples)]
    if samples * length > len(ids):
        print(
            f"tokenize.py: note: {samples} samples of {length} tokens repeat the text, which has "
            f"{len(ids)}, {samples * length / len(ids):.1f} times; a longer one calibrates better",
            file=sys.stderr,
        )
    return np.stack([ids[start : start + length] for start in starts])


def write(rows: np.ndarray, options: argparse.Namespace, tokenizer_file: Path) -> None:
    mode = "sequential" if options.sequential else f"random windows, seed {options.seed}"
    with writing(options.out) as partial, h5py.File(partial, "w") as file:
        file["input_ids"] = rows
        attributes = file["input_ids"].attrs
        attributes["tokenizer"] = str(tokenizer_file)
        attributes["source"] = f"{options.text} ({mode})"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="plain text, or JSONL with --field")
    parser.add_argument("--model", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="token set to write (HDF5)")
    parser.add_argument("--field", help="the text is JSONL and this field of a line holds it")
    parser.add_argument("--length", type=int, default=2048, help="tokens per sample (2048)")
    parser.add_argument("--samples", type=int, help="samples (128; all of them if --sequential)")
    parser.add_argument("--seed", type=int, default=0, help="of the random windows (0)")
    parser.add_argument(
        "--sequential", action="store_true", help="consecutive rows, to evaluate on"
    )
    parser.add_argument(
        "--no-special-tokens", action="store_true", help="leave out what the tokenizer adds (BOS)"
    )
    options = parser.parse_args(arguments)
    if options.length < 2:
        parser.error("--length must be at least 2")
    if options.samples is not None and options.samples < 1:
        parser.error("--samples must be at least 1")
    return options


def run(options: argparse.Namespace) -> None:
    check_folder(options.out)
    tokenizer, tokenizer_file = open_tokenizer(options.model)
    tokens = all_tokens(options, tokenizer)
    if options.sequential:
        rows = sequential_rows(tokens, options.samples, options.length)
    else:
        rows = random_rows(tokens, options.samples or 128, options.length, options.seed)
    write(rows, options, tokenizer_file)
    print(f"{options.out}: {rows.shape[0]} samples of {rows.shape[1]} tokens")


def main(arguments: list[str] | None = None) -> int:
    return run_job(__file__, run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
