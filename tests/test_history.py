# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep history: change points in made-up series, the file, the page."""

import csv
import json
import random
import shutil

import pytest

from measure.change_points import change_points
from measure.history_file import Entry, append, load
from test_doubts import kept
from test_gate import run
from test_report import KEPT
from test_verdict_files import gate_of  # noqa: F401  pylint: disable=unused-import

WRONG = 2
STAMPED = KEPT.parent / "stamped"


def series(seed, *parts, noise=0.03):
    """parts: (how many, level)."""
    rng = random.Random(seed)
    return [level * rng.lognormvariate(0, noise) for number, level in parts for _ in range(number)]


# ---- The method ----

def test_noise_has_no_change():
    wrong = [seed for seed in range(60) if change_points(series(seed, (30, 1e5)))]
    assert len(wrong) <= 1, "p < 0.005 each"


def test_a_step_is_found_where_it_is_with_its_size():
    for seed in range(20):
        (found,) = change_points(series(seed, (20, 1e5), (8, 0.85e5)))
        assert abs(found.at - 20) <= 1 and found.ratio.low <= 0.87 and found.ratio.high >= 0.83 and found.p < 0.005


def test_several_steps_are_told_apart():
    found = change_points(series(1, (15, 100), (15, 80), (15, 120)))
    assert [one.at for one in found] == [15, 30]
    assert [round(one.ratio.median, 1) for one in found] == [0.8, 1.5], "each between its neighbours"


def test_one_wild_figure_and_few_figures_are_no_change():
    wild = series(1, (30, 100))
    wild[15] = 20
    assert not change_points(wild)
    assert not change_points([100] * 3 + [50] * 2) and not change_points([]) and not change_points([1.0])


def test_counts_have_no_noise():
    assert not change_points([339.0] * 40)
    (found,) = change_points([339.0] * 15 + [361.0] * 3)
    assert found.at == 15 and found.ratio.low == found.ratio.high
    assert not change_points([339.0] * 15 + [340.0] * 15), "a third of a percent"
    assert change_points([339.0] * 15 + [340.0] * 15, 0.001)


def test_the_same_series_has_the_same_changes():
    of = series(3, (20, 100), (6, 93))
    assert change_points(of) == change_points(list(of))


# ---- The file ----

def entry(number, level, doubt="", machine="a CPU", metric="requests/s"):
    figure = {"median": level, "low": level * 0.99, "high": level * 1.01, "n": 12}
    return Entry(f"{number:012x}", f"2026-01-01T00:{number:02}:00Z", machine, "gate", doubt, {metric: {"w": figure}})


def test_runs_are_added_once_and_in_order(tmp_path):
    file = tmp_path / "history.jsonl"
    done = run("history", file, "--add", KEPT, STAMPED)
    assert done.returncode == 0, done.stderr
    first, second = load(file)
    info = json.loads((STAMPED / "run.json").read_text())
    assert second.commit.startswith(info["builds"][0]["commit"][:12]) and second.started == info["started"]
    assert first.figures["requests/s"] and first.figures["ratio to the bound"]
    assert not any("uring" in case for case in second.figures["ratio to the bound"])
    assert run("history", file, "--add", STAMPED).stdout.rstrip().endswith("is there already")
    assert load(file) == [first, second]


def test_a_doubtful_run_is_marked(tmp_path):
    kept(tmp_path, lambda line, _: line.update(load_average=9.0))
    run("history", tmp_path / "h", "--add", tmp_path)
    assert load(tmp_path / "h")[0].doubt == "load above the 2 CPUs"


def test_the_verdict_of_gate_is_added_by_compiler_and_machine(tmp_path, gate_of):  # noqa: F811
    _, content, *_ = gate_of()
    (tmp_path / "gate-verdict").write_text(json.dumps(content))
    done = run("history", tmp_path / "h", "--add", tmp_path / "gate-verdict")
    assert done.returncode == 0, done.stderr
    counts, ratios = load(tmp_path / "h")
    assert counts.machine == "cc 1" and counts.figures["instructions"]["write"]["median"] == 1000
    assert ratios.machine == content["facts"]["machine"] and ratios.figures["ratio to the bound"]["w"]["n"] == 15
    assert counts.commit == ratios.commit == content["facts"]["commit"]


def test_a_line_without_its_end_is_not_lost(tmp_path):
    append(tmp_path / "h", [entry(1, 1.0)])
    (tmp_path / "h").write_text((tmp_path / "h").read_text().rstrip())
    append(tmp_path / "h", [entry(2, 2.0)])
    assert load(tmp_path / "h") == [entry(1, 1.0), entry(2, 2.0)]


@pytest.mark.parametrize("content, says", [
    (b"{", ":1: damaged: "), (b"[]\n", ":1: damaged: "), (b"\xff", "codec"), (b'{"schema": "x"}', ":1: schema x"),
    (b'{"schema": "pcache-history/1"}', ":1: damaged: KeyError"), (b"", "has no results"),
    (entry(1, 1.0).as_line().replace("1.0", '"fast"').encode(), ":1: damaged: "),
])
def test_a_damaged_file_is_named_by_the_line(tmp_path, content, says):
    (tmp_path / "h").write_bytes(content)
    done = run("history", tmp_path / "h")
    assert done.returncode == WRONG and says in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments, says", [
    (["--add", "/nowhere"], "/nowhere: is not there; expected a folder of pcache-sweep run, or what gate --json"),
    (["--add", "/dev/null"], "/dev/null: expected a file, found a character device"),
    (["--add", "/"], "/run.json: is not there"),
    (["--last", "0"], "--last 0: expected 1 or more"),
    ([], "has no results"),
])
def test_wrong_use_is_named_and_nothing_is_written(tmp_path, arguments, says):
    done = run("history", tmp_path / "h", *arguments)
    assert done.returncode == WRONG and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "h").exists()


# ---- The page ----

def drawn(folder, entries, *options):
    append(folder / "h.jsonl", entries)
    done = run("history", folder / "h.jsonl", "--output", folder / "page", *options)
    assert done.returncode == 0, done.stderr
    with open(folder / "page" / "changes.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file)), (folder / "page" / "history.html").read_text(), done.stdout


def test_the_page_names_the_commit_that_changed_something(tmp_path):
    levels = series(1, (15, 1e5), (8, 0.8e5))
    (row,), page, said = drawn(tmp_path, [entry(n, level) for n, level in enumerate(levels)])
    assert (row["commit"], row["is"], row["metric"]) == (f"{15:012x}", "worse", "requests/s")
    low, high = map(float, row["interval"].split(" to "))
    assert low <= 0.8 <= high and row["commit"] in said and "E-divisive" in page
    assert page.count('<tr class="marked">') == 1 and page.count("<svg") == page.count("</svg>") == 1
    assert "1 changes, 1 of them to the worse" in said
    assert list((tmp_path / "page").glob("*.png"))


def test_more_instructions_are_worse_and_fewer_are_better(tmp_path):
    levels = [300.0] * 15 + [330.0] * 15 + [280.0] * 15
    rows, page, _ = drawn(tmp_path, [entry(n, level, metric="instructions") for n, level in enumerate(levels)])
    assert [row["is"] for row in rows] == ["better", "worse"], "the latest first"
    assert page.count('<tr class="marked">') == 1


def test_machines_are_not_mixed_and_what_is_doubtful_is_no_evidence(tmp_path):
    two = [entry(n, 1e5 if n < 15 else 0.8e5, machine="old" if n < 15 else "new") for n in range(30)]
    rows, page, _ = drawn(tmp_path, two)
    assert not rows and page.count("<svg") == 2 and "None." in page
    shutil.rmtree(tmp_path / "page")
    (tmp_path / "h.jsonl").unlink()
    busy = [entry(n, 1e5 if n < 15 else 0.8e5, doubt="" if n < 15 else "busy") for n in range(30)]
    rows, page, _ = drawn(tmp_path, busy)
    assert not rows and "(15 of 30)" in page
