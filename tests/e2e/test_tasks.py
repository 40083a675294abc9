"""`quip eval-tasks` against transformers; jobs/convert_tasks.py against texts written by hand."""

import importlib.util
import json
import math
import statistics
import sys

import pytest
from tasks import SHERLOCK, VARIED, continuations, read_lines, varied_items
from tokenizers import Tokenizer

import cli
import hf_models

NANO = cli.model("llama-nano")
REFERENCE = json.loads((cli.DATA / "transformers.json").read_text())

sys.path.append(str(cli.ROOT / "jobs"))  # last: it holds a tokenize.py
spec = importlib.util.spec_from_file_location("convert", cli.ROOT / "jobs" / "convert_tasks.py")
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)


def write_lines(file, items):
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    return file


def score(tmp_path, *options, tasks=SHERLOCK, **how):
    """The summary, and the details of every item."""
    details = tmp_path / "details.jsonl"
    result = cli.run(
        "eval-tasks", *options, "--tasks", tasks, "--details", details, "--json", **how
    )
    return json.loads(result.stdout), read_lines(details)


def log_likelihoods(detail):
    return detail.get("log_likelihoods") or [detail["log_likelihood"]]


def first_largest(values):
    return max(range(len(values)), key=values.__getitem__)


@pytest.fixture(scope="module")
def expected():
    """Every item with [log-likelihood, whether greedy decoding says the same] per continuation."""
    return list(zip(read_lines(SHERLOCK), REFERENCE["sherlock"], strict=True))


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return score(tmp_path_factory.mktemp("serial"), "--model", NANO)


def test_log_likelihoods_equal_transformers(serial, expected):
    for detail, (item, scores) in zip(serial[1], expected, strict=True):
        assert detail["id"] == item["id"]
        assert log_likelihoods(detail) == pytest.approx([s for s, _ in scores], rel=1e-3)
        if "target" in item:
            assert detail["greedy"] == scores[0][1]


def test_accuracies_equal_transformers(serial, expected):
    plain, normalised, greedy, losses = [], [], [], []
    for item, scores in expected:
        values = [value for value, _ in scores]
        if "target" in item:
            greedy.append(scores[0][1])
            losses.append(-values[0])
            continue
        per_byte = [value / length for value, length in zip(values, item["lengths"], strict=True)]
        plain.append(first_largest(values) == item["answer"])
        normalised.append(first_largest(per_byte) == item["answer"])
    choice, word = serial[0]["multiple_choice"], serial[0]["last_word"]
    assert (choice["items"], word["items"]) == (200, 100)
    assert choice["accuracy"] == statistics.mean(plain)
    assert choice["accuracy_norm"] == statistics.mean(normalised)
    assert word["accuracy"] == statistics.mean(greedy)
    assert word["perplexity"] == pytest.approx(math.exp(statistics.mean(losses)), rel=1e-3)
    # A test that could tell nothing apart would pass too easily.
    assert 0 < sum(greedy) < len(greedy) and plain != normalised
    spread = statistics.stdev(plain) / math.sqrt(len(plain))
    assert choice["standard_error"] == pytest.approx(spread)


@pytest.mark.parametrize(("ranks", "threads"), [(2, 1), (3, 1), (1, 2)])
def test_same_result_on_any_ranks(ranks, threads, serial, tmp_path):
    how = {"ranks": ranks, "threads": threads}
    assert score(tmp_path, "--model", NANO, "--threads", threads, **how) == serial


def test_more_ranks_than_items(tmp_path):
    results = [score(tmp_path, "--model", NANO, "--items", 2, ranks=ranks)[0] for ranks in (1, 4)]
    assert results[0] == results[1]
    assert results[0]["multiple_choice"]["items"] == 2


def test_packed_model(quantized, serial, tmp_path):
    """Against the export, whose weights are rounded to bf16: hence the 1 %."""
    packed = quantized("llama-nano", "--bits", 3, "--samples", 16)
    checkpoint = tmp_path / "export"
    cli.run("export", "--packed", packed, "--model", NANO, "--out", checkpoint)
    _, exported = score(tmp_path, "--model", checkpoint)
    _, details = score(tmp_path, "--packed", packed, ranks=2)
    worst = 0.0
    for item, detail, before in zip(exported, details, serial[1], strict=True):
        values = log_likelihoods(detail)
        assert values == pytest.approx(log_likelihoods(item), rel=0.01)
        change = [a - b for a, b in zip(values, log_likelihoods(before), strict=True)]
        worst = max(worst, *map(abs, change))
    assert worst > 1  # nats: the quantized weights are what was scored


@pytest.mark.parametrize("name", VARIED)
def test_sequences_of_very_different_lengths(name, tmp_path):
    checkpoint = hf_models.make(name, tmp_path / "model")
    items = varied_items()
    tasks = write_lines(tmp_path / "tasks.jsonl", items)
    _, details = score(tmp_path, "--model", checkpoint, tasks=tasks, ranks=2)
    reference = REFERENCE["cases"][name]["scores"]
    for number, (expected, detail) in enumerate(zip(reference, details, strict=True), start=1):
        assert detail["id"] == number  # the line, where the file names none
        scores = [value for value, _ in expected]
        assert detail["log_likelihoods"] == pytest.approx(scores, rel=1e-3, abs=1e-3)


def test_equal_choices_and_lengths(tmp_path):
    """The first of equals is chosen; a longer text makes up for a lower likelihood."""
    base = {"context": [5, 6, 7], "answer": 0}
    items = [
        base | {"choices": [[9], [9]], "lengths": [4, 4]},
        base | {"choices": [[9], [9]], "lengths": [4, 5]},
    ]
    tasks = write_lines(tmp_path / "tasks.jsonl", items)
    summary, details = score(tmp_path, "--model", NANO, tasks=tasks)
    assert [detail["chosen"] for detail in details] == [0, 0]
    assert [detail["chosen_norm"] for detail in details] == [0, 1]
    assert summary["multiple_choice"]["accuracy"] == 1.0
    assert summary["multiple_choice"]["accuracy_norm"] == 0.5


CHOICE = {"context": [5], "choices": [[6], [7]], "lengths": [1, 1], "answer": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "tasks.jsonl:2: not valid JSON"),
        ([1], "tasks.jsonl:2: not a JSON object"),
        ({"target": [1]}, 'tasks.jsonl:2: has no "context"'),
        ({"context": [], "target": [1]}, '"context" must be a list of token ids'),
        ({"context": [1], "target": [1.5]}, '"target" holds 1.5'),
        ({"context": [1], "target": [-1]}, '"target" holds -1'),
        ({"context": [1]}, 'either "choices" or "target"'),
        (CHOICE | {"target": [1]}, 'either "choices" or "target"'),
        (CHOICE | {"choices": [[1]]}, "at least two"),
        (CHOICE | {"lengths": [1]}, "bytes of each of the 2 choices"),
        (CHOICE | {"lengths": [1, 0]}, "not a positive number"),
        (CHOICE | {"answer": 2}, '"answer" must be a number from 0 to 1'),
        (CHOICE | {"id": "x", "context": [4096]}, "item x has a token that is not in"),
        (CHOICE | {"id": "x", "context": [1] * 256}, "item x has 257 tokens, the model takes 256"),
    ],
)
def test_faulty_items_are_named(line, message, tmp_path):
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "tasks.jsonl").write_text(json.dumps(CHOICE) + "\n" + text + "\n")
    result = cli.run(
        "eval-tasks", "--model", NANO, "--tasks", tmp_path / "tasks.jsonl", ranks=2, check=False
    )
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("quip: error")]
    assert len(errors) == 1 and message in errors[0]


# --- jobs/convert_tasks.py ---


def convert(tmp_path, *arguments):
    out = tmp_path / "tasks.jsonl"
    assert job.main([*map(str, arguments), "--model", str(NANO), "--out", str(out)]) == 0
    return read_lines(out)


def decoded(item):
    """What the ids say: the prompt with its beginning of text, and the continuations."""
    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    texts = [tokenizer.decode(ids) for ids in continuations(item)]
    return tokenizer.decode(item["context"], skip_special_tokens=False), texts


def test_book_repeats_the_task_file(tmp_path):
    """The evaluation set holds the whole book, so it gives the file's text back."""
    ids = hf_models.read_tokens(cli.EVALUATION).ravel().tolist()
    text = tmp_path / "book.txt"
    text.write_text(Tokenizer.from_file(str(NANO / "tokenizer.json")).decode(ids))
    convert(tmp_path, "book", text, "--no-special-tokens")
    assert (tmp_path / "tasks.jsonl").read_bytes() == SHERLOCK.read_bytes()


def test_lambada(tmp_path):
    passages = tmp_path / "lambada.jsonl"
    passages.write_text('{"text": "He knocked at the door"}\n\nPlain lines do, too\n')
    items = convert(tmp_path, "lambada", passages)
    assert [decoded(item) for item in items] == [
        ("<s>He knocked at the", [" door"]),
        ("<s>Plain lines do,", [" too"]),
    ]
    assert all(set(item) == {"id", "context", "target"} for item in items)


def test_arc_easy(tmp_path):
    choices = [{"text": "café", "label": "A"}, {"text": "the sea", "label": "B"}]
    published = {"id": "Q1", "question": {"stem": "Where is it?", "choices": choices}}
    hub = {
        "id": "Q2",
        "question": "And here?",
        "choices": {"text": ["one", "two", "three"], "label": ["1", "2", "3"]},
        "answerKey": "1",
    }
    file = write_lines(tmp_path / "arc.jsonl", [published | {"answerKey": "B"}, hub])
    items = convert(tmp_path, "arc-easy", file, "--no-special-tokens")
    assert decoded(items[0]) == ("Question: Where is it?\nAnswer:", [" café", " the sea"])
    assert decoded(items[1]) == ("Question: And here?\nAnswer:", [" one", " two", " three"])
    assert [(item["id"], item["answer"]) for item in items] == [("Q1", 1), ("Q2", 0)]
    assert items[0]["lengths"] == [5, 7]  # bytes of UTF-8, without the space


def test_piqa(tmp_path):
    questions = [{"goal": "Open a jar.", "sol1": "Twist it.", "sol2": "Ask it."}] * 2
    file = write_lines(tmp_path / "valid.jsonl", questions)
    (tmp_path / "labels.lst").write_text("0\n1\n")
    items = convert(tmp_path, "piqa", file, "--labels", tmp_path / "labels.lst")
    assert decoded(items[0]) == ("<s>Question: Open a jar.\nAnswer:", [" Twist it.", " Ask it."])
    assert [item["answer"] for item in items] == [0, 1]


def test_story_cloze(tmp_path):
    file = tmp_path / "stories.csv"
    file.write_text(
        "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
        "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
        's1,One.,"Two, too.",Three.,Four.,It ended.,It went on.,2\n'
    )
    (item,) = convert(tmp_path, "story-cloze", file)
    assert decoded(item) == (
        "<s>One. Two, too. Three. Four.",
        [" It ended.", " It went on."],
    )
    assert (item["id"], item["answer"], item["lengths"]) == ("s1", 1, [9, 11])


def test_long_contexts_are_cut_on_the_left(tmp_path):
    passage = tmp_path / "long.txt"
    passage.write_text("word " * 400 + "end\n")
    (item,) = convert(tmp_path, "lambada", passage)
    assert len(item["context"]) + len(item["target"]) == 256  # what llama-nano takes
    assert decoded(item)[0].endswith(" word word")
    (item,) = convert(tmp_path, "lambada", passage, "--length", 12)
    assert len(item["context"]) + len(item["target"]) == 12


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("lambada", "word\n", "only one word"),
        ("arc-easy", '{"question": "?"}\n', "no field 'choices'"),
        ("arc-easy", "[]\n", ":1 is not a JSON object"),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b"}\n', "--labels"),
        ("piqa", '{"goal": "g", "sol1": "a", "sol2": "b", "label": 2}\n', "not 0 or 1"),
        ("piqa", '{"goal": "g", "sol1": 1, "sol2": "b", "label": 1}\n', "field 'sol1'"),
        ("piqa", '{"goal": "\\udc00"}\n', ":1 holds \\udc00, half of a surrogate pair"),
        ("arc-easy", '{"question": {"stem": "s", "choices": ["a"]}}\n', "no field 'label'"),
        ("arc-easy", '{"question": "?", "choices": []}\n', "field 'choices'"),
        (
            "arc-easy",
            '{"question": "?", "choices": {"label": ["A", "B"], "text": ["a"]}}\n',
            "2 labels for 1 choices",
        ),
        ("lambada", '{"text": 7}\n', "field 'text'"),
        ("lambada", b"two words\n\xef\n", ":2 is not UTF-8 text"),
        ("story-cloze", b"a,b\n1,\xef\n", ":2 is not UTF-8 text"),
        ("story-cloze", "a,b\n1,2\n", "no field 'InputSentence1'"),
        ("book", "He went to the old house again. " * 20, "too little text: 0 of 200"),
        ("book", "Too short.\n", "too little text: 0 of 200"),
        ("lambada", "", "holds no items"),
    ],
)
def test_converter_names_what_is_wrong(kind, text, message, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert job.main([kind, str(source), "--model", str(NANO), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
