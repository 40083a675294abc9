"""jobs/plot_scaling.py: tables against numbers worked out by hand, charts by their points."""

import csv
import importlib
import json
import sys

import pytest

import cli

sys.path.append(str(cli.ROOT / "jobs"))  # last: it holds a tokenize.py
job = importlib.import_module("plot_scaling")
report_job = importlib.import_module("plot_report")


def report(ranks, seconds, phases, communication=(), idle=(), study=None, **top):
    """As quip writes it: `phases` are seconds and mean seconds in collectives, by name."""
    per_rank = [
        {
            "rank": rank,
            "host": f"n{rank // 2}",
            "seconds": seconds,
            "communication_seconds": (communication or [0] * ranks)[rank],
            "idle_seconds": (idle or [0] * ranks)[rank],
            "bytes_sent": 100 * rank,
            "peak_rss_bytes": (rank + 1) * 2**20,
            "phases": {},
        }
        for rank in range(ranks)
    ]
    by_name = {
        name: {"seconds": time, "flops": 1, "bytes_sent": 0, "communication_seconds": spent}
        for name, (time, spent) in phases.items()
    }
    out = {"ranks": ranks, "threads": 1, "seconds": seconds, "phases": by_name}
    out |= {"rank_reports": per_rank, "tokens": 4096, "parameters": 10} | top
    return out | ({} if study is None else {"study": study})


def strong(nodes, repeat, digest="d1"):
    return {"kind": "strong", "nodes": nodes, "work": 1, "repeat": repeat, "digest": digest}


# Medians 11, 6.875 and 4.4 s: speed-up 1.6 and 2.5, efficiency 80 and 62.5 %. On two ranks
# 1.375 s of 6.875 are communication (20 %), on four (1.32 + …)/4 = 1.1 s of 4.4 (25 %).
ONE = {"load": (1.0, 0.0), "hessian": (6.0, 0.0), "round": (4.0, 0.0)}
TWO = {"load": (1.0, 0.0), "hessian": (3.5, 0.6875), "round": (2.375, 0.6875)}
FOUR = {"load": (1.0, 0.0), "hessian": (2.0, 0.88), "round": (1.4, 0.22)}
REPORTS = {
    "0002-1": report(2, 6.875, TWO, (1.0, 1.75), (0.0, 0.6875), strong(2, 1)),
    "0001-1": report(1, 10.0, ONE, study=strong(1, 1)),
    "0001-2": report(1, 12.0, ONE, study=strong(1, 2)),
    "0001-3": report(1, 11.0, ONE, study=strong(1, 3)),
    "0004-1": report(4, 4.4, FOUR, (1.32, 0.88, 1.32, 0.88), (0.44, 0, 0.44, 0), strong(4, 1)),
}


def write(folder, reports):
    files = []
    for name, content in reports.items():
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(content))
    return files


@pytest.fixture
def files(tmp_path):
    return write(tmp_path, REPORTS)


@pytest.fixture
def figures(monkeypatch):
    """The charts that were drawn, before they become files."""
    drawn = []
    save = report_job.save
    monkeypatch.setattr(report_job, "save", lambda fig, out: (drawn.append(fig), save(fig, out)))
    return drawn


def run(*arguments):
    return job.main([str(argument) for argument in arguments])


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(text):
    """The cells of the study's table, without its header."""
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("| nodes |"))
    end = lines.index("", start)
    return [cells(line) for line in lines[start + 2 : end]]


def test_strong_scaling_in_a_table(files, tmp_path):
    assert run(*files, "--out", tmp_path / "out" / "s") == 0
    text = (tmp_path / "out" / "s.md").read_text()
    assert text.startswith("Strong scaling")
    one, two, four = rows(text)
    assert one == [
        *("1", "1", "1", "3", "11.00", "10.00 – 12.00", "1.00", "100.0%", "0.0%", "0.0%", "1 MiB")
    ]
    # Waiting on two ranks: (0 + 0.6875) / 2 of 6.875 s; on four (0.44 + 0.44) / 4 of 4.4 s.
    assert two == [
        *("2", "2", "1", "1", "6.88", "6.88 – 6.88", "1.60", "80.0%", "20.0%", "5.0%", "2 MiB")
    ]
    assert four == [
        *("4", "4", "1", "1", "4.40", "4.40 – 4.40", "2.50", "62.5%", "25.0%", "5.0%", "4 MiB")
    ]


def test_phases_in_a_table(files, tmp_path):
    run(*files, "--out", tmp_path / "s")
    lines = (tmp_path / "s.md").read_text().splitlines()
    start = lines.index("| phase | 1 rank | 2 ranks | 4 ranks |")
    assert {cells(line)[0]: cells(line)[1:] for line in lines[start + 2 :]} == {
        "load": ["1.00 (0.0%)", "1.00 (0.0%)", "1.00 (0.0%)"],
        "hessian": ["6.00 (0.0%)", "3.50 (10.0%)", "2.00 (20.0%)"],
        "round": ["4.00 (0.0%)", "2.38 (10.0%)", "1.40 (5.0%)"],
    }


def test_the_csv_holds_every_run_and_gives_the_same_table(files, tmp_path):
    run(*files, "--out", tmp_path / "s")
    with (tmp_path / "s.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["ranks"], line["repeat"]) for line in lines] == [
        *(("1", "1"), ("1", "2"), ("1", "3"), ("2", "1"), ("4", "1"))
    ]
    last = lines[-1]
    assert float(last["communication_seconds"]) == pytest.approx(1.1)
    assert float(last["hessian_communication_seconds"]) == 0.88
    assert (last["nodes"], last["bytes_sent"], last["digest"]) == ("4", "600", "d1")
    assert run(tmp_path / "s.csv", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again.md").read_text() == (tmp_path / "s.md").read_text()
    assert not (tmp_path / "again.csv").exists()


def test_weak_scaling_counts_work_per_second(tmp_path):
    """Twice the work in 1.25 times the time: speed-up 1.6, efficiency 80 %."""
    reports = {
        str(n): report(
            n, seconds, {"round": (seconds, 0)},
            study={"kind": "weak", "nodes": n, "work": n, "repeat": 1, "digest": f"d{n}"},
        )
        for n, seconds in ((1, 8.0), (2, 10.0))
    }  # fmt: skip
    assert run(*write(tmp_path, reports), "--out", tmp_path / "w") == 0
    text = (tmp_path / "w.md").read_text()
    assert text.startswith("Weak scaling")
    assert rows(text)[1][4:8] == ["10.00", "10.00 – 10.00", "1.60", "80.0%"]


def test_threads_are_cores_and_reports_need_no_study(tmp_path):
    """4 ranks of 2 threads on two hosts against one rank of 4: twice the cores, half the time."""
    reports = {
        "a": report(1, 9.0, {"round": (9.0, 0)}, threads=4),
        "b": report(4, 4.5, {"round": (4.5, 0)}, threads=2),
    }
    assert run(*write(tmp_path, reports), "--out", tmp_path / "s") == 0
    text = (tmp_path / "s.md").read_text()
    assert text.startswith("Strong scaling") and "| phase | 1 rank × 4 | 4 ranks × 2 |" in text
    assert rows(text)[1][:3] + rows(text)[1][6:8] == ["2", "4", "2", "2.00", "100.0%"]


def points(line):
    return list(map(float, line.get_xdata())), [pytest.approx(float(y)) for y in line.get_ydata()]


def test_charts(files, tmp_path, figures):
    assert run(*files, "--out", tmp_path / "s") == 0
    png, svg = (tmp_path / "s.png").read_bytes(), (tmp_path / "s.svg").read_text()
    assert png.startswith(b"\x89PNG") and "<svg" in svg
    speedup, efficiency, communication = figures[0].axes
    ideal, median, single = map(points, speedup.get_lines())
    assert ideal == ([1, 2, 4], [1, 2, 4])
    assert median == ([1, 2, 4], [1, 1.6, 2.5])
    assert single == ([1, 1, 1, 2, 4], [11 / 10, 11 / 12, 1, 1.6, 2.5])
    assert points(efficiency.get_lines()[1]) == ([1, 2, 4], [100, 80, 62.5])
    assert points(efficiency.get_lines()[2])[1] == [110, 1100 / 12, 100, 80, 62.5]
    stacks = {
        bars.get_label(): [(bar.get_y(), bar.get_height()) for bar in bars]
        for bars in communication.containers
    }
    assert stacks == {  # load does not communicate
        "hessian": [(0, 0), (0, pytest.approx(10)), (0, pytest.approx(20))],
        "round": [(0, 0), *((pytest.approx(b), pytest.approx(h)) for b, h in ((10, 10), (20, 5)))],
    }


def test_without_matplotlib_the_table_is_there(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(*files, "--out", tmp_path / "s") == 1
    assert "no plots without matplotlib" in capsys.readouterr().err
    assert (tmp_path / "s.md").exists() and (tmp_path / "s.csv").exists()


OTHER_DIGEST = report(2, 6.0, TWO, study=strong(2, 1, "d2"))
WEAK = report(2, 6.0, TWO, study=strong(2, 1) | {"kind": "weak"})
OLD = {"ranks": 1, "threads": 1, "seconds": 3, "phases": {"load": {"seconds": 1}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OTHER_DIGEST, "the run on 2 ranks made the model d2, that of the same work on 1 d1"),
        (WEAK, "different studies"),
        (REPORTS["0001-2"], "the same ranks and threads"),
        (OLD, "x.json is not a report.json of quip quantize with times in collectives"),
        ([], "x.json is not a report.json"),
        (REPORTS["0002-1"] | {"seconds": 0}, "x.json is not a report.json"),
    ],
)
def test_faulty_reports_are_one_line(content, message, tmp_path, capsys):
    files = write(tmp_path, {"0001-1": REPORTS["0001-1"], "x": content})
    assert run(*files, "--out", tmp_path / "s") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.glob("s.*")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read"),
        ("a,b\n1,2\n", "is not a table of a scaling study"),
        ("kind,nodes\n", "holds no rows"),
    ],
)
def test_faulty_tables_are_one_line(text, message, tmp_path, capsys):
    file = tmp_path / "in.csv"
    if text is not None:
        file.write_text(text)
    assert run(file, "--out", tmp_path / "s") == 1
    error = capsys.readouterr().err
    assert message in error and str(file) in error and error.count("\n") == 1
