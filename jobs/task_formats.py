"""Published zero-shot tasks as questions in words: one reader per format."""

import argparse
import csv
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from job_input import InputError, json_object, reading


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
    """Yields (place, line) of the lines that are not empty."""
    with reading(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line.rstrip("\n")


def records_of(path: Path) -> Iterator[tuple[str, dict]]:
    for where, line in lines_of(path):
        yield where, json_object(line, where)


def field(record: dict, name: str, where: str, *kinds: type):
    """Returns a field that must be there, and be of one of these types (without any: a string)."""
    if not isinstance(record, dict) or record.get(name) is None:
        raise InputError(f"{where} has no field '{name}'; is this the right format?")
    if not isinstance(record[name], kinds or str):
        raise InputError(f"{where}: field '{name}' is not what this format has there")
    return record[name]


# --- formats ---


def lambada(options: argparse.Namespace) -> Iterator[Item]:
    for number, (where, line) in enumerate(lines_of(options.file)):
        text = line
        if line.lstrip().startswith("{"):
            text = field(json_object(line, where), "text", where)
        context, _, word = text.strip().rpartition(" ")
        if not context:
            raise InputError(f"{where} has only one word")
        yield Item(f"lambada-{number}", context, [f" {word}"])


def arc_easy(options: argparse.Namespace) -> Iterator[Item]:
    for number, (where, record) in enumerate(records_of(options.file)):
        question = field(record, "question", where, str, dict)
        if isinstance(question, dict):  # as the Allen Institute publishes it
            stem = field(question, "stem", where)
            choices = field(question, "choices", where, list)
            labels = [field(choice, "label", where) for choice in choices]
            texts = [field(choice, "text", where) for choice in choices]
        else:  # as data-set hubs lay it out
            choices = field(record, "choices", where, dict)
            stem, labels = question, field(choices, "label", where, list)
            texts = [str(text) for text in field(choices, "text", where, list)]
            if len(texts) != len(labels):
                raise InputError(f"{where} has {len(labels)} labels for {len(texts)} choices")
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
    with reading(options.file), options.file.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = list(csv.DictReader(file))
        except csv.Error as error:
            raise InputError(f"{options.file} is not a CSV file: {error}") from None
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
    offered = {text for text in sentences if len(text.split()) in SENTENCE_WORDS}
    if options.items > 0 and len(offered) < CHOICES:
        raise InputError(f"too little text: 0 of {options.items} items")
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
    """Returns the sentences before `end`, at least CONTEXT_WORDS words of them."""
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
