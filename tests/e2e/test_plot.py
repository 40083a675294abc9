"""jobs/plot_report.py: tables against numbers worked out by hand, charts by their points."""

import importlib.util
import itertools
import json
import sys

import pytest

import cli

sys.path.append(str(cli.ROOT / "jobs"))  # last: it holds a tokenize.py
spec = importlib.util.spec_from_file_location("plot", cli.ROOT / "jobs" / "plot_report.py")
job = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)

SWEEP = """\
model,method,processing,bits,seed,settings,mean_relative_proxy_loss,perplexity,seconds,digest
llama-nano,unquantized,-,-,-,-,0,50,0,
llama-nano,ldlq,baseline,2,1,paper,0.1,70,1,a
llama-nano,ldlq,baseline,4,1,paper,0.01,56,1,a
llama-nano,nearest,baseline,2,1,paper,0.2,80,1,a
llama-nano,ldlq,incoherence,2,1,paper,0.05,60,1,a
llama-nano,ldlq,incoherence,2,2,paper,0.07,64,1,a
llama-nano,ldlq,incoherence,4,1,paper,0.005,50,1,a
llama-nano,ldlq,incoherence,2,1,default,0.04,58,1,a
llama-micro,ldlq,baseline,2,1,paper,0.1,48,1,a
llama-micro,ldlq,baseline,4,1,paper,0.01,40,1,a
"""
GOLDEN = {
    "fp": 50.5,
    "ldlq,2,baseline": {"ppl": [72.0], "mean_rel_proxy": [0.0977]},  # −2.8 %, +2.4 %: within 3 %
    "ldlq,4,baseline": {"ppl": [55.0], "mean_rel_proxy": [0.01]},  # +1.8 %: beyond 1 %
    "ldlq,2,incoherence": {"ppl": [61.0, 62.0], "mean_rel_proxy": [0.0625]},  # −4 %: beyond 2 %
    "optq,2,baseline": {"ppl": [71.0], "mean_rel_proxy": [0.1]},
}


@pytest.fixture
def sweep(tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text(SWEEP)
    return file


@pytest.fixture
def golden(tmp_path):
    directory = tmp_path / "golden"
    directory.mkdir()
    (directory / "llama-nano.json").write_text(json.dumps(GOLDEN))
    return directory


@pytest.fixture
def figures(monkeypatch):
    """The charts that were drawn, before they become files."""
    drawn = []
    save = job.save
    monkeypatch.setattr(job, "save", lambda figure, out: (drawn.append(figure), save(figure, out)))
    return drawn


def run(*arguments):
    return job.main([str(argument) for argument in arguments])


def test_tables(sweep, golden, capsys):
    assert run("table", sweep, "--golden", golden) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("### llama-nano")
    assert lines[start + 2] == "Perplexity; unquantized 50.00 (50.50):"
    assert lines[start + 4 : start + 11] == [
        "| settings | processing | bits | nearest | ldlq |",
        "|---|---|--:|--:|--:|",
        "| paper | baseline | 4 |  | 56.00 (55.00) |",
        "| paper | baseline | 2 | 80.00 | 70.00 (72.00) |",
        "| paper | incoherence | 4 |  | 50.00 |",
        # standard deviation of 60 and 64: √8
        "| paper | incoherence | 2 |  | 62.00 ± 2.83 (61.50) |",
        "| default | incoherence | 2 |  | 58.00 |",
    ]
    assert "| paper | incoherence | 2 |  | 0.0600 ± 0.0141 (0.0625) |" in lines
    assert "### llama-micro" in lines


def test_misses_are_listed(sweep, golden, capsys):
    run("table", sweep, "--golden", golden)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("### Against the authors' program")
    assert lines[start + 2] == "3 rows compared, 2 numbers beyond their allowance."
    assert lines[start + 3] == "Not all of these were run: llama-nano (optq)."
    assert lines[start + 7 :] == [
        "| llama-nano | ldlq | baseline | 4 | perplexity | 56.00 | 55.00 | +1.8% | 1% |",
        "| llama-nano | ldlq | incoherence | 2 | relative proxy loss "
        "| 0.0600 | 0.0625 | -4.0% | 2% |",
    ]


def test_page_keeps_what_stands_around_the_tables(sweep, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    for _ in range(2):  # the second time it finds its own tables
        assert run("table", sweep, "--into", page) == 0
        text = page.read_text()
        assert text.startswith("before\n<!-- table: begin -->\n\n### llama-nano\n")
        assert text.endswith("<!-- table: end -->\nafter\n") and "old" not in text
        assert text.count("### llama-nano") == 1


def test_published_page_is_up_to_date(tmp_path):
    """docs/results.md holds what docs/results.csv says, not numbers typed by hand."""
    docs = cli.ROOT / "docs"
    page = tmp_path / "results.md"
    page.write_text((docs / "results.md").read_text())
    options = ("--golden", cli.DATA / "golden", "--into", page)
    assert run("table", docs / "results.csv", *options) == 0
    assert page.read_text() == (docs / "results.md").read_text()
    assert "### llama-nano" in page.read_text()


def curves(axes):
    return [
        (list(map(float, line.get_xdata())), [pytest.approx(float(y)) for y in line.get_ydata()])
        for line in axes.get_lines()
    ]


def is_picture(out):
    png, svg = out.with_suffix(".png").read_bytes(), out.with_suffix(".svg").read_text()
    return png.startswith(b"\x89PNG") and "<svg" in svg


def test_bits_chart(sweep, tmp_path, figures):
    assert run("bits", sweep, "--out", tmp_path / "bits") == 0
    assert is_picture(tmp_path / "bits")
    nano, micro = figures[0].axes
    assert ([4, 2], [56, 70]) in curves(nano)
    assert ([4, 2], [50, 62]) in curves(nano)  # the mean over seeds
    assert ([2], [80]) in curves(nano)
    assert ([0, 1], [50, 50]) in curves(nano)  # unquantized, across the panel
    assert curves(micro) == [([4, 2], [40, 48])]
    labels = {text.get_text() for text in nano.texts}
    assert {"baseline, ldlq", "baseline, nearest", "incoherence, ldlq", "unquantized"} <= labels
    assert "incoherence, ldlq, defaults" in labels


def test_labels_do_not_overlap(sweep, tmp_path, figures):
    sweep.write_text(SWEEP.replace(",80,", ",70.01,").replace(",58,", ",70.02,"))
    assert run("bits", sweep, "--out", tmp_path / "bits") == 0
    figure = figures[0]
    names = [text for text in figure.axes[0].texts if text.get_text() != "unquantized"]
    boxes = sorted((t.get_window_extent() for t in names), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_gap_chart(sweep, tmp_path, figures):
    models = cli.DATA / "models"
    assert run("gap", sweep, "--models", models, "--out", tmp_path / "gap") == 0
    assert is_picture(tmp_path / "gap")
    (axes,) = figures[0].axes
    sizes = {model: (models / model / "model.safetensors").stat().st_size / 2 for model in
             ("llama-nano", "llama-micro")}  # fmt: skip
    baseline, incoherence = axes.get_lines()
    assert list(baseline.get_xdata()) == pytest.approx(list(sizes.values()), rel=0.01)
    assert list(baseline.get_ydata()) == pytest.approx([25, 20])  # 70 / 56 and 48 / 40
    assert list(incoherence.get_ydata()) == pytest.approx([24])  # 62 / 50


def test_layers_chart(tmp_path, figures):
    reports = []
    for run_name, factor in (("one", 1), ("two", 2)):
        layers = [
            {
                "name": f"model.layers.{b}.{part}_proj",
                "relative_proxy_loss": factor * 0.01 * (b + 1),
            }
            for b in (0, 1)
            for part in ("q", "k")
        ]
        report = tmp_path / run_name / "report.json"
        report.parent.mkdir()
        report.write_text(json.dumps({"layers": layers}))
        reports.append(report)
    assert run("layers", *reports, "--out", tmp_path / "losses") == 0
    assert is_picture(tmp_path / "losses")
    (axes,) = figures[0].axes
    assert ([0, 1, 2, 3], [0.01, 0.01, 0.02, 0.02]) in curves(axes)
    assert ([0, 1, 2, 3], [0.02, 0.02, 0.04, 0.04]) in curves(axes)
    assert {text.get_text() for text in axes.texts} == {"one", "two"}
    assert list(axes.get_xticks()) == [0.5, 2.5]  # the middle of each block
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("table", None, "cannot read"),
        ("table", "a,b\n1,2\n", "not a table of jobs/sweep.sh"),
        ("bits", SWEEP.splitlines()[0] + "\n", "holds no rows"),
        ("layers", "[]", "not a report.json"),
        ("layers", '{"layers": []}', "has no layers"),
    ],
)
def test_faulty_input_is_named(command, content, message, tmp_path, capsys):
    file = tmp_path / "input"
    if content is not None:
        file.write_text(content)
    out = () if command == "table" else ("--out", tmp_path / "chart")
    assert run(command, file, *out) == 1
    error = capsys.readouterr().err
    assert message in error and str(file) in error
    assert list(tmp_path.glob("chart*")) == []
