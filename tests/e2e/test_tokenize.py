"""jobs/tokenize.py against the token sets that lie beside the models."""

import gzip
import importlib.util
import json
import random
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

import checkpoints
import cli
import hf_models

EXCERPT = cli.DATA / "tokens" / "sherlock_excerpt.txt"
MODEL = cli.model("llama-nano")

sys.path.append(str(cli.ROOT / "jobs"))  # last: it holds a tokenize.py
import text_documents  # noqa: E402

spec = importlib.util.spec_from_file_location("tokenize_job", cli.ROOT / "jobs" / "tokenize.py")
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)


def tokenize(out, *options, text=EXCERPT, model=MODEL):
    arguments = [text, "--model", model, "--out", out, "--length", 256, *options]
    assert job.main([str(argument) for argument in arguments]) == 0
    return hf_models.read_tokens(out)


def refused(capsys, out, *options, text=EXCERPT, model=MODEL):
    arguments = [text, "--model", model, "--out", out, *options]
    assert job.main([str(argument) for argument in arguments]) == 1
    assert not out.exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("piece", [1 << 20, 5000, 4500])
def test_sequential_rows_equal_the_evaluation_set(piece, tmp_path, monkeypatch):
    """Whatever the size of the pieces in which the text is read."""
    monkeypatch.setattr(text_documents, "PIECE", piece)
    rows = tokenize(tmp_path / "rows.h5", "--sequential", "--no-special-tokens")
    expected = hf_models.read_tokens(cli.EVALUATION)
    assert len(rows) > 20
    # The excerpt ends in mid-word, so its last row may not be one of the book's.
    np.testing.assert_array_equal(rows[:-1], expected[: len(rows) - 1])


def test_tokenizer_adds_its_beginning_of_text(tmp_path):
    plain = tokenize(tmp_path / "plain.h5", "--sequential", "--no-special-tokens").ravel()
    special = tokenize(tmp_path / "special.h5", "--sequential").ravel()
    assert special[0] == 1  # <s>, as this tokenizer's template says
    np.testing.assert_array_equal(special[1:], plain[: len(special) - 1])


def test_random_windows_are_windows_of_the_text(tmp_path):
    rows = tokenize(tmp_path / "rows.h5", "--samples", 7, "--seed", 3, "--no-special-tokens")
    ids = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(
        EXCERPT.read_text(encoding="utf-8"), add_special_tokens=False
    )
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids.ids, dtype=np.int32), 256)
    assert rows.shape == (7, 256)
    assert all((windows == row).all(axis=1).any() for row in rows)


def test_seed_decides_the_windows(tmp_path):
    draws = [
        tokenize(tmp_path / f"{i}.h5", "--samples", 4, "--seed", seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_jsonl_is_one_document_per_line(tmp_path):
    text = EXCERPT.read_text(encoding="utf-8")
    cut = random.Random(0).sample(range(2000, len(text) - 2000), 2)
    pieces = [text[: min(cut)], text[min(cut) : max(cut)], text[max(cut) :]]
    lines = tmp_path / "documents.jsonl"
    lines.write_text("\n".join(json.dumps({"id": 1, "body": piece}) for piece in pieces))
    rows = tokenize(tmp_path / "rows.h5", "--sequential", "--field", "body", text=lines)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    expected = [token for piece in pieces for token in tokenizer.encode(piece).ids]
    np.testing.assert_array_equal(rows.ravel(), expected[: rows.size])
    assert (rows == 1).sum() == 3


def test_attributes_say_where_it_comes_from(tmp_path):
    tokenize(tmp_path / "rows.h5", "--sequential")
    with h5py.File(tmp_path / "rows.h5") as file:
        assert str(EXCERPT) in file["input_ids"].attrs["source"]
        assert "tokenizer.json" in file["input_ids"].attrs["tokenizer"]
        assert file["input_ids"].dtype == np.int32


def test_too_little_text_says_how_much_there_is(tmp_path, capsys):
    message = refused(capsys, tmp_path / "x.h5", "--length", 100000)
    count = len(
        Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        .encode(EXCERPT.read_text(encoding="utf-8"))
        .ids
    )
    assert str(count) in message
    assert "100000" in message


LATIN1 = "na\u00efve ".encode("latin-1") * 200


@pytest.mark.parametrize(
    ("content", "options", "place"),
    [
        (b"first line\n" + LATIN1, (), ":2 is not UTF-8 text"),
        (
            b'{"text": "good"}\n{"text": "' + LATIN1 + b'"}\n',
            ("--field", "text"),
            ":2 is not UTF-8",
        ),
        (
            b'{"text": "good"}\n{"text": "\\ud800 ' + b"word " * 300 + b'"}\n',
            ("--field", "text"),
            ":2 holds \\ud800, half of a surrogate pair",
        ),
        (b"[" * 100000 + b"\n", ("--field", "text"), ":1 is not a JSON object"),
        (b"[1, 2]\n", ("--field", "text"), ":1 is not a JSON object"),
    ],
)
def test_text_that_is_none_is_named_with_its_line(content, options, place, tmp_path, capsys):
    file = tmp_path / "text"
    file.write_bytes(content)
    said = refused(capsys, tmp_path / "x.h5", "--length", 32, *options, text=file)
    assert said.startswith(f"tokenize.py: error: {file}{place}")


@pytest.mark.parametrize("cut", [0, 5000])
def test_damaged_tokenizer_is_named(cut, tmp_path, capsys):
    file = tmp_path / "tokenizer.json"
    file.write_bytes((MODEL / "tokenizer.json").read_bytes()[:cut])
    said = refused(capsys, tmp_path / "x.h5", "--length", 32, model=tmp_path)
    assert said.startswith(f"tokenize.py: error: {file} is damaged")


def test_unknown_tokenizer_is_named(tmp_path, capsys):
    file = tmp_path / "tokenizer.json"
    content = json.loads((MODEL / "tokenizer.json").read_text())
    file.write_text(json.dumps(content | {"model": {"type": "of another age"}}))
    said = refused(capsys, tmp_path / "x.h5", "--length", 32, model=tmp_path)
    assert said.startswith(f"tokenize.py: error: {file} is damaged, or newer")


def test_byte_order_mark_is_no_text(tmp_path):
    marked = tmp_path / "marked.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + EXCERPT.read_bytes())
    rows = [tokenize(tmp_path / f"{text.name}.h5", "--sequential", text=text)
            for text in (EXCERPT, marked)]  # fmt: skip
    np.testing.assert_array_equal(*rows)


def test_samples_that_repeat_the_text_are_noted(tmp_path, capsys):
    ids = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(EXCERPT.read_text())
    enough = len(ids) // 256
    tokenize(tmp_path / "a.h5", "--samples", enough)
    assert capsys.readouterr().err == ""
    tokenize(tmp_path / "b.h5", "--samples", 3 * enough)
    said = capsys.readouterr().err
    assert said.startswith(f"tokenize.py: note: {3 * enough} samples of 256 tokens repeat the text")
    assert f"which has {len(ids)}, 3.0 times" in said and said.count("\n") == 1


def test_folder_of_the_output_is_looked_for_first(tmp_path, capsys):
    out = tmp_path / "nowhere" / "x.h5"
    assert "is not a directory" in refused(capsys, out, text=tmp_path / "no text either")


# A Python without packages (-S), in a copy of the folder that has no .venv, then one.
def run_bare(place):
    return subprocess.run(
        ["/usr/bin/python3", "-S", "jobs/tokenize.py", "a.txt", "--model", "m", "--out", "o"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def test_script_goes_on_in_the_environment_that_has_its_packages(tmp_path):
    shutil.copytree(cli.ROOT / "jobs", tmp_path / "jobs")
    done = run_bare(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "tokenize.py: error: this Python lacks h5py, numpy, tokenizers; "
        "jobs/install-deps.sh --venv makes .venv, in which this script then runs\n"
    )
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    assert run_bare(tmp_path).stdout == "jobs/tokenize.py a.txt --model m --out o\n"


def test_missing_inputs_are_named(tmp_path, capsys):
    out = tmp_path / "x.h5"
    assert "nowhere.txt" in refused(capsys, out, text=tmp_path / "nowhere.txt")
    assert "tokenizer.json" in refused(capsys, out, model=tmp_path)
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "a"}\n{"other": 1}\n')
    assert "lines.jsonl:2" in refused(capsys, out, "--field", "text", text=lines)
    assert "--field" in refused(capsys, out, "--field", "text")


def gzipped(file, content):
    file.write_bytes(gzip.compress(content.encode()))
    return file


def test_gzipped_texts_are_as_they_were(tmp_path):
    plain = tokenize(tmp_path / "plain.h5", "--sequential")
    packed = gzipped(tmp_path / "text.txt.gz", EXCERPT.read_text())
    np.testing.assert_array_equal(tokenize(tmp_path / "a.h5", "--sequential", text=packed), plain)
    line = json.dumps({"text": EXCERPT.read_text()}) + "\n"
    lines = gzipped(tmp_path / "lines.jsonl.gz", line)
    options = ("--sequential", "--field", "text")
    np.testing.assert_array_equal(tokenize(tmp_path / "b.h5", *options, text=lines), plain)


def test_parquet(tmp_path):
    words = EXCERPT.read_text().split("\n\n")
    file = tmp_path / "part.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(words)), "text": words}), file)
    lines = tmp_path / "part.jsonl"
    lines.write_text("".join(json.dumps({"text": word}) + "\n" for word in words))
    expected = tokenize(tmp_path / "a.h5", "--sequential", "--field", "text", text=lines)
    np.testing.assert_array_equal(tokenize(tmp_path / "b.h5", "--sequential", text=file), expected)


def test_several_texts_follow_each_other(tmp_path):
    half = tmp_path / "half.txt"
    half.write_text(EXCERPT.read_text()[:4000])
    options = ("--sequential", "--no-special-tokens")
    both = tokenize_texts(tmp_path / "both.h5", [EXCERPT, half], *options).ravel()
    one = tokenize(tmp_path / "one.h5", *options).ravel()
    np.testing.assert_array_equal(both[: len(one)], one)
    assert len(both) > len(one)


def tokenize_texts(out, texts, *options):
    arguments = [*texts, "--model", MODEL, "--out", out, "--length", 256, *options]
    assert job.main([str(argument) for argument in arguments]) == 0
    return hf_models.read_tokens(out)


def test_weights_say_how_often_a_text_is_drawn(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("zebra " * 3000)
    weights = ("--weights", "1,3", "--samples", 10, "--seed", 3)
    rows = tokenize_texts(tmp_path / "mixed.h5", [EXCERPT, other], *weights)
    zebra = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(" zebra zebra").ids[-1]
    of_other = [np.count_nonzero(row == zebra) > 30 for row in rows]
    assert len(rows) == 10 and sum(of_other) == 7  # 7.5 and 2.5: the first text has the tie
    assert of_other != sorted(of_other)
    again = tokenize_texts(tmp_path / "again.h5", [EXCERPT, other], *weights)
    np.testing.assert_array_equal(rows, again)
    with h5py.File(tmp_path / "mixed.h5") as file:
        assert f"{other}:3" in file["input_ids"].attrs["source"]


def with_template(directory, template, **fields):
    model = checkpoints.copy(MODEL, directory)
    config = json.loads((model / "tokenizer_config.json").read_text()) | fields
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    return model


CHAT = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Holmes."}]
TEMPLATE = """{{ bos_token }}{% for one in messages %}
{{ one['role'] }}: {{ one['content'] }}
{% endfor %}"""


def test_chats_go_through_the_template_of_the_model(tmp_path):
    """Blocks leave no lines of their own, as transformers sets up the template language."""
    model = with_template(tmp_path / "model", TEMPLATE, bos_token={"content": "<s>"})
    chats = tmp_path / "chats.jsonl"
    chats.write_text((json.dumps({"messages": CHAT}) + "\n") * 40)
    rows = tokenize(tmp_path / "a.h5", "--chat", "--sequential", text=chats, model=model).ravel()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    one = tokenizer.encode("<s>user: Who?\nassistant: Holmes.\n", add_special_tokens=False).ids
    np.testing.assert_array_equal(rows, (one * 40)[: len(rows)])
    inside = with_template(tmp_path / "inside", None, chat_template=TEMPLATE, bos_token="<s>")
    same = tokenize(tmp_path / "b.h5", "--chat", "--sequential", text=chats, model=inside).ravel()
    np.testing.assert_array_equal(same, rows)


def test_mistakes_in_texts_of_other_kinds(tmp_path, capsys):
    out = tmp_path / "out.h5"
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"some text" * 1000)[:-20])
    assert "is damaged, or not gzipped" in refused(capsys, out, text=broken)
    table = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"body": ["a"], "number": [1]}), table)
    assert "has no column 'text', but body, number" in refused(capsys, out, text=table)
    assert "column 'number' is not a string" in refused(
        capsys, out, "--field", "number", text=table
    )
    table.write_bytes(b"no parquet")
    assert "as Parquet" in refused(capsys, out, text=table)
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": CHAT}) + "\n")
    plain = with_template(tmp_path / "plain", None)
    assert "has no chat template" in refused(capsys, out, "--chat", text=chats, model=plain)
    strict = with_template(tmp_path / "strict", "{{ raise_exception('roles must alternate') }}")
    assert "refuses it (roles must alternate)" in refused(
        capsys, out, "--chat", text=chats, model=strict
    )
    chats.write_text(json.dumps({"messages": "hello"}) + "\n")
    assert "is not a list of messages" in refused(capsys, out, "--chat", text=chats, model=strict)
