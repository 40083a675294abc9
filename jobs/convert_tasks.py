#!/usr/bin/env python3
"""Turns published zero-shot tasks into token ids for `quip eval-tasks`.

Nothing is downloaded: you bring the files as their authors publish them. It runs in the
environment that `jobs/install-deps.sh --venv` makes:

  jobs/convert_tasks.py arc-easy ARC-Easy-Test.jsonl --model DIR --out arc.jsonl

The wording is that of EleutherAI's harness at the time of the QuIP paper:

  format       file                                  context -> continuation
  lambada      JSONL {"text"}, or a passage a line   all but the last word -> " word"
  arc-easy     JSONL {"question", "answerKey"}       "Question: stem\\nAnswer:" -> " choice"
  piqa         JSONL {"goal", "sol1", "sol2"},       "Question: goal\\nAnswer:" -> " solution"
               its labels with --labels FILE.lst
  story-cloze  CSV with a header line                four sentences -> " ending"
  book         plain text, for tests: --items choices of the next sentence (the other three come
               from elsewhere in the book), then --words last words

By default the tokenizer adds what it adds before any text (often a beginning-of-text token); that
harness left it out, so repeat its numbers with --no-special-tokens.
"""

import os
import sys

if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
    sys.path.append(sys.path.pop(0))  # Python's own module `tokenize` comes before ours
    from job_input import need

    need("tokenizers")

import argparse
import json
from pathlib import Path

from job_input import InputError, check_folder, run_job, writing
from task_formats import FORMATS, Item
from text_tokens import encode, open_tokenizer, special_ends
from tokenizers import Tokenizer


class Converter:
    def __init__(self, tokenizer: Tokenizer, length: int, special: bool):
        self.tokenizer, self.length = tokenizer, length
        self.prefix = special_ends(tokenizer)[0] if special else []

    def parts(self, item: Item, continuation: str) -> tuple[list[int], list[int]]:
        """Returns context and continuation, encoded as one text: a token that reaches past the
        context's last character belongs to the continuation."""
        encoding = encode(self.tokenizer, item.context + continuation)
        end = len(item.context)
        cut = next((k for k, (_, last) in enumerate(encoding.offsets) if last > end), None)
        if cut is None or cut + len(self.prefix) == 0:
            raise InputError(f"item {item.name}: context or continuation has no tokens")
        return self.prefix + encoding.ids[:cut], encoding.ids[cut:]

    def convert(self, item: Item) -> dict:
        pairs = [self.parts(item, text) for text in item.continuations]
        # The context's last token may depend on what follows it; then it is not the context's.
        common = min((context for context, _ in pairs), key=len)
        continuations = [context[len(common) :] + rest for context, rest in pairs]
        room = self.length - max(map(len, continuations))
        if room < 1:
            raise InputError(f"item {item.name}: a continuation has more than {self.length} tokens")
        record = {"id": item.name, "context": common[-room:]}
        if item.answer is None:
            return record | {"target": continuations[0]}
        lengths = [len(text[1:].encode()) for text in item.continuations]
        return record | {"choices": continuations, "lengths": lengths, "answer": item.answer}


def model_length(model: Path) -> int:
    try:
        return int(json.loads((model / "config.json").read_text())["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{model}/config.json does not say how long a text may be; give --length"
        ) from None


def write(records: list[dict], out: Path) -> None:
    with writing(out) as partial, partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="task file to write (JSON lines)")
    parser.add_argument("--labels", type=Path, help="piqa: the file of labels")
    parser.add_argument("--length", type=int, help="cut contexts on the left to this many tokens")
    parser.add_argument("--no-special-tokens", action="store_true", help="no beginning-of-text")
    parser.add_argument("--items", type=int, default=200, help="book: multiple choice (200)")
    parser.add_argument("--words", type=int, default=100, help="book: last words (100)")
    parser.add_argument("--seed", type=int, default=0, help="book: of the random choice (0)")
    options = parser.parse_args(arguments)
    if options.labels is not None and options.format != "piqa":
        parser.error("--labels belongs to piqa")
    return options


def run(options: argparse.Namespace) -> None:
    check_folder(options.out)
    tokenizer, _ = open_tokenizer(options.model)
    length = options.length or model_length(options.model)
    converter = Converter(tokenizer, length, not options.no_special_tokens)
    records = [converter.convert(item) for item in FORMATS[options.format](options)]
    if not records:
        raise InputError(f"{options.file} holds no items")
    write(records, options.out)
    print(f"{options.out}: {len(records)} items")


def main(arguments: list[str] | None = None) -> int:
    return run_job(__file__, run, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
