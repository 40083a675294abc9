#!/usr/bin/env python3
"""Turns published zero-shot tasks into token ids for `quip eval-tasks`.

Nothing is downloaded: you bring the files as their authors publish them. Run it in the
environment of `jobs/install-deps.sh --venv`:

  .venv/bin/python jobs/convert_tasks.py arc-easy ARC-Easy-Test.jsonl --model DIR --out arc.jsonl

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
    del sys.path[0]  # Python's own module `tokenize` must not be looked for here

import argparse
import csv
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer


class InputError(Exception):
    """Something the user can mend; the message is all they see."""


@dataclass
class Item:
    """One question in words. Continuations begin with the space that parts them from the context;
    without an answer there is one of them, the target."""

    name: str
    context: str
    continuations: list[str]
    answer: int | None = None


# --- reading ---


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(place, line) of the lines that are not empty."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason})") from None


def records_of(path: Path) -> Iterator[tuple[str, dict]]:
    for where, line in lines_of(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{where} is not a JSON object")
        yield where, record


def field(record: dict, name: str, where: str):
    if record.get(name) is None:
        raise InputError(f"{where} has no field '{name}'; is this the right format?")
    return record[name]


# --- formats ---


def lambada(options: argparse.Namespace) -> Iterator[Item]:
    for number, (where, line) in enumerate(lines_of(options.file)):
        text = line
        if line.lstrip().startswith("{"):
            try:
                text = field(json.loads(line), "text", where)
            except json.JSONDecodeError:
                raise InputError(f"{where} is not a JSON object") from None
        context, _, word = text.strip().rpartition(" ")
        if not context:
            raise InputError(f"{where} has only one word")
        yield Item(f"lambada-{number}", context, [f" {word}"])


def arc_easy(options: argparse.Namespace) -> Iterator[Item]:
    for number, (where, record) in enumerate(records_of(options.file)):
        question = field(record, "question", where)
        if isinstance(question, dict):  # as the Allen Institute publishes it
            stem = field(question, "stem", where)
            choices = field(question, "choices", where)
            labels = [field(choice, "label", where) for choice in choices]
            texts = [field(choice, "text", where) for choice in choices]
        else:  # as data-set hubs lay it out
            choices = field(record, "choices", where)
            stem, labels, texts = question, field(choices, "label", where), choices["text"]
        key = field(record, "answerKey", where)
        if key not in labels:
            raise InputError(f"{where}: answerKey '{key}' is none of the labels {labels}")
        yield question_item(
            str(record.get("id", f"arc-easy-{number}")), stem, texts, labels.index(key)
        )


def piqa(options: argparse.Namespace) -> Iterator[Item]:
    labels = [line for _, line in lines_of(options.labels)] if options.labels else None
    records = list(records_of(options.file))
    if labels is not None and len(labels) != len(records):
        raise InputError(
            f"{options.labels} has {len(labels)} labels, {options.file} {len(records)} questions"
        )
    for number, (where, record) in enumerate(records):
        if labels is None and "label" not in record:
            raise InputError(f"{where} has no label; give the file of labels with --labels")
        label = str(record["label"] if labels is None else labels[number]).strip()
        if label not in ("0", "1"):
            raise InputError(f"{where}: the label is '{label}', not 0 or 1")
        texts = [field(record, name, where) for name in ("sol1", "sol2")]
        yield question_item(f"piqa-{number}", field(record, "goal", where), texts, int(label))


def question_item(name: str, stem: str, texts: list[str], answer: int) -> Item:
    return Item(name, f"Question: {stem}\nAnswer:", [f" {text}" for text in texts], answer)


def story_cloze(options: argparse.Namespace) -> Iterator[Item]:
    try:
        with options.file.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {options.file}: {error}") from None
    for number, row in enumerate(rows, start=2):
        where = f"{options.file}, row {number}"
        sentences = [field(row, f"InputSentence{k}", where) for k in (1, 2, 3, 4)]
        endings = [field(row, f"RandomFifthSentenceQuiz{k}", where) for k in (1, 2)]
        right = field(row, "AnswerRightEnding", where)
        if right not in ("1", "2"):
            raise InputError(f"{where}: AnswerRightEnding is '{right}', not 1 or 2")
        yield Item(
            row.get("InputStoryid") or f"story-cloze-{number - 2}",
            " ".join(sentences),
            [f" {ending}" for ending in endings],
            int(right) - 1,
        )


# --- a book as a task ---

CHOICES = 4
CONTEXT_WORDS = 40  # at least; then to the end of the sentence
SENTENCE_WORDS = range(6, 21)  # of a sentence that is offered as a continuation
LAST_WORD = re.compile(r"^(.*\S) ([A-Za-z]{4,})[.!?]$", re.DOTALL)


def book(options: argparse.Namespace) -> Iterator[Item]:
    text = " ".join(line for _, line in lines_of(options.file))
    sentences = re.split(r"(?<=[.!?]) +(?=[A-Z])", re.sub(r"\s+", " ", text))
    draw = random.Random(options.seed)
    ends = list(range(len(sentences)))
    draw.shuffle(ends)
    questions = [end for end in ends if len(sentences[end].split()) in SENTENCE_WORDS]
    words = [end for end in ends if LAST_WORD.match(sentences[end])]
    yield from take(options.items, (next_sentence(sentences, end, draw) for end in questions))
    yield from take(options.words, (last_word(sentences, end) for end in words))


def take(count: int, items: Iterator[Item | None]) -> Iterator[Item]:
    found = 0
    while found < count:
        item = next(items, StopIteration)
        if item is StopIteration:
            raise InputError(f"too little text: {found} of {count} items")
        if item is not None:
            found += 1
            yield item


def context_before(sentences: list[str], end: int) -> str | None:
    """The sentences before `end`, back to where they have CONTEXT_WORDS words."""
    words, begin = 0, end
    while begin > 0 and words < CONTEXT_WORDS:
        begin -= 1
        words += len(sentences[begin].split())
    return " ".join(sentences[begin:end]) if words >= CONTEXT_WORDS else None


def next_sentence(sentences: list[str], end: int, draw: random.Random) -> Item | None:
    context = context_before(sentences, end)
    if context is None:
        return None
    choices = [sentences[end]]
    while len(choices) < CHOICES:
        other = draw.choice(sentences)
        if len(other.split()) in SENTENCE_WORDS and other not in choices:
            choices.append(other)
    draw.shuffle(choices)
    texts = [f" {choice}" for choice in choices]
    return Item(f"sentence-{end}", context, texts, choices.index(sentences[end]))


def last_word(sentences: list[str], end: int) -> Item | None:
    context = context_before(sentences, end)
    if context is None:
        return None
    beginning, word = LAST_WORD.match(sentences[end]).groups()
    return Item(f"word-{end}", f"{context} {beginning}", [f" {word}"])


FORMATS: dict[str, Callable[[argparse.Namespace], Iterator[Item]]] = {
    "lambada": lambada,
    "arc-easy": arc_easy,
    "piqa": piqa,
    "story-cloze": story_cloze,
    "book": book,
}

# --- tokens ---


class Converter:
    def __init__(self, tokenizer: Tokenizer, length: int, special: bool):
        self.tokenizer, self.length = tokenizer, length
        self.prefix = self.tokens_before_a_text() if special else []

    def tokens_before_a_text(self) -> list[int]:
        plain = self.tokenizer.encode("a", add_special_tokens=False).ids
        full = self.tokenizer.encode("a", add_special_tokens=True).ids
        for first in range(len(full) - len(plain) + 1):
            if full[first : first + len(plain)] == plain:
                return full[:first]
        return []

    def parts(self, item: Item, continuation: str) -> tuple[list[int], list[int]]:
        """Context and continuation, encoded as one text: what reaches past the context's last
        character belongs to the continuation."""
        encoding: Encoding = self.tokenizer.encode(
            item.context + continuation, add_special_tokens=False
        )
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
    except (OSError, ValueError, KeyError):
        raise InputError(
            f"{model}/config.json does not say how long a text may be; give --length"
        ) from None


# --- command line ---


def write(records: list[dict], out: Path) -> None:
    """Writes under a temporary name and renames: a file that is there is whole."""
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        os.replace(partial, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from None


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
    tokenizer_file = options.model / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise InputError(f"{tokenizer_file} is not there; --model wants a checkpoint's directory")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    length = options.length or model_length(options.model)
    converter = Converter(tokenizer, length, not options.no_special_tokens)
    records = [converter.convert(item) for item in FORMATS[options.format](options)]
    if not records:
        raise InputError(f"{options.file} holds no items")
    write(records, options.out)
    print(f"{options.out}: {len(records)} items")


def main(arguments: list[str] | None = None) -> int:
    try:
        run(parse(arguments))
    except InputError as failure:
        print(f"convert_tasks.py: error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
