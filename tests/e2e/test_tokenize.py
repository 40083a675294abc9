"""jobs/tokenize.py against the token sets that lie beside the models."""

import importlib.util
import json
import random
import sys

import h5py
import numpy as np
import pytest
from tokenizers import Tokenizer

import cli
import hf_models

EXCERPT = cli.DATA / "tokens" / "sherlock_excerpt.txt"
MODEL = cli.model("llama-nano")

sys.path.append(str(cli.ROOT / "jobs"))  # last: it holds a tokenize.py
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
    monkeypatch.setattr(job, "PIECE", piece)
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


def test_missing_inputs_are_named(tmp_path, capsys):
    out = tmp_path / "x.h5"
    assert "nowhere.txt" in refused(capsys, out, text=tmp_path / "nowhere.txt")
    assert "tokenizer.json" in refused(capsys, out, model=tmp_path)
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "a"}\n{"other": 1}\n')
    assert "lines.jsonl:2" in refused(capsys, out, "--field", "text", text=lines)
    assert "--field" in refused(capsys, out, "--field", "text")
