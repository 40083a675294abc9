#!/usr/bin/env python3
"""Turns text into a token set: HDF5 `input_ids`, int32 [samples, length].

Calibration draws random windows from the text; evaluation (--sequential) cuts it into
consecutive rows. It runs in the environment that `jobs/install-deps.sh --venv` makes:

  jobs/tokenize.py c4.jsonl.gz --field text --model DIR --out calibration.h5
  jobs/tokenize.py code.parquet chats.parquet --weights 1,3 --model DIR --out calibration.h5
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
from job_input import InputError, check_folder, run_job, writing
from text_documents import ChatTemplate, documents, plain_text
from text_tokens import encode, open_tokenizer, special_ends
from tokenizers import Tokenizer

OVERLAP = 1 << 12  # characters that neighbouring pieces share
AGREEMENT = 16  # tokens in a row on which both encodings of an overlap must agree


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


def tokens_of(path: Path, options: argparse.Namespace, tokenizer: Tokenizer) -> Iterator[int]:
    """Yields the tokens of all documents of a file."""
    text_of = ChatTemplate(options.model) if options.chat else plain_text
    special = not (options.no_special_tokens or options.chat)  # a template has its own
    for document in documents(path, options.field, text_of):
        yield from document_tokens(tokenizer, document, special)


def sequential_rows(tokens: Iterator[int], samples: int | None, length: int) -> np.ndarray:
    """Returns consecutive rows without overlap; an incomplete last row is dropped."""
    wanted = None if samples is None else samples * length
    ids = array.array("i", itertools.islice(tokens, wanted))
    rows = len(ids) // length
    if rows == 0 or (samples is not None and rows < samples):
        need = (samples or 1) * length
        raise InputError(f"too little text: {len(ids)} tokens, but {need} are needed")
    return np.frombuffer(ids, dtype=np.int32)[: rows * length].reshape(rows, length)


def ids_of(tokens: Iterator[int], length: int, what: str = "text") -> np.ndarray:
    ids = np.frombuffer(array.array("i", tokens), dtype=np.int32)
    if len(ids) < length:
        raise InputError(
            f"too little {what}: {len(ids)} tokens, but {length} are needed for one sample"
        )
    return ids


def random_rows(tokens: Iterator[int], samples: int, length: int, seed: int) -> np.ndarray:
    """Returns windows at uniformly random places; they may overlap, as in OPTQ's calibration.
    Prints a note if they hold more tokens than the text."""
    ids = ids_of(tokens, length)
    draw = random.Random(seed)
    starts = [draw.randrange(len(ids) - length + 1) for _ in range(samples)]
    note_repeats("the text", samples, length, len(ids))
    return np.stack([ids[start : start + length] for start in starts])


def mixed_rows(texts: list[tuple[str, Iterator[int]]], options: argparse.Namespace) -> np.ndarray:
    """Returns windows of several texts, (name, tokens), each drawn as often as its weight says, in
    random order."""
    length, samples = options.length, options.samples or 128
    draw = random.Random(options.seed)
    total = sum(options.weights)
    # Shares to whole samples: what is left over goes to the largest remainders.
    exact = [samples * weight / total for weight in options.weights]
    counts = [int(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: samples - sum(counts)]:
        counts[i] += 1
    rows = []
    for (name, tokens), count in zip(texts, counts, strict=True):
        ids = ids_of(tokens, length, f"text in {name}")
        note_repeats(name, count, length, len(ids))
        starts = [draw.randrange(len(ids) - length + 1) for _ in range(count)]
        rows += [ids[start : start + length] for start in starts]
    draw.shuffle(rows)
    return np.stack(rows)


def note_repeats(name: str, samples: int, length: int, there: int) -> None:
    if samples * length > there:
        print(
            f"tokenize.py: note: {samples} samples of {length} tokens repeat {name}, which has "
            f"{there}, {samples * length / there:.1f} times; a longer one calibrates better",
            file=sys.stderr,
        )


def write(rows: np.ndarray, options: argparse.Namespace, tokenizer_file: Path) -> None:
    mode = "sequential" if options.sequential else f"random windows, seed {options.seed}"
    with writing(options.out) as partial, h5py.File(partial, "w") as file:
        file["input_ids"] = rows
        attributes = file["input_ids"].attrs
        attributes["tokenizer"] = str(tokenizer_file)
        weights = options.weights or [None] * len(options.text)
        names = [f"{p}:{w:g}" if w else str(p) for p, w in zip(options.text, weights, strict=True)]
        attributes["source"] = f"{' '.join(names)} ({mode})"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "text",
        type=Path,
        nargs="+",
        help="plain text; JSONL with --field; both also as .gz; .parquet",
    )
    parser.add_argument("--model", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="token set to write (HDF5)")
    parser.add_argument(
        "--field", help="the field of a JSON line, or the column of Parquet (text), with the text"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="that field (messages) is a list of messages; the model's chat template makes it text",
    )
    parser.add_argument(
        "--weights", help="W,W,...: how often samples are drawn from each text, relative to others"
    )
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
    if options.chat and options.field is None:
        options.field = "messages"
    if options.weights is not None:
        options.weights = weights_of(parser, options)
    return options


def weights_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[float]:
    if options.sequential:
        parser.error("--weights belongs to random samples: leave out --sequential")
    try:
        weights = [float(word) for word in options.weights.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(options.text) or not all(0 < w < float("inf") for w in weights):
        parser.error(f"--weights {options.weights}: must be a positive number for each text")
    return weights


def run(options: argparse.Namespace) -> None:
    check_folder(options.out)
    tokenizer, tokenizer_file = open_tokenizer(options.model)
    texts = [(str(path), tokens_of(path, options, tokenizer)) for path in options.text]
    tokens = itertools.chain.from_iterable(tokens for _, tokens in texts)
    if options.sequential:
        rows = sequential_rows(tokens, options.samples, options.length)
    elif options.weights:
        rows = mixed_rows(texts, options)
    else:
        rows = random_rows(tokens, options.samples or 128, options.length, options.seed)
    write(rows, options, tokenizer_file)
    print(f"{options.out}: {rows.shape[0]} samples of {rows.shape[1]} tokens")


def main(arguments: list[str] | None = None) -> int:
    return run_job(__file__, run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
