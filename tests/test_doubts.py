# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes figures doubtful is said: on the page, on standard error, in verdicts. Over made-up results."""

import argparse
import csv
import json
import re
import shutil

import pytest

from measure import compare
from measure.doubts import Doubts
from measure.estimates import Estimate
from measure.run_folder import Run
from test_compare import results, rounds
from test_gate import CANNOT_TELL, SAME, SLOWER, run
from test_report import KEPT
from test_verdict_files import NO_DOUBTS, gate_of  # noqa: F401  pylint: disable=unused-import

RED = '<p class="doubt">'


def waiting(of, waits):
    """The first so many of the measurements have waited, with one write in ten."""
    return [m | {"backing": {"requested_bytes": 1, "written_bytes": 1, "writes": 1000,
                             "waited_for_space": 100 if i < waits else 0}} for i, m in enumerate(of)]


def two_builds(folder, waits):
    return results(folder, {"4k": {"a": waiting(rounds(12), waits), "b": waiting(rounds(12, seed=2), waits)}})


@pytest.mark.parametrize("waits, says, strict", [
    (0, None, SAME),
    (1, "2 of 24 measurements that write waited for writeback: these are of the disk (up to 10.0% of", SAME),
    (9, "18 of 24 measurements that write waited for writeback: this compares the disk", CANNOT_TELL),
])
def test_compare_says_when_it_compares_the_disk(tmp_path, waits, says, strict):
    folder = two_builds(tmp_path / "run", waits)
    done = run("compare", folder, "--json", tmp_path / "x")
    content = json.loads((tmp_path / "x").read_text())
    assert done.returncode == SAME
    assert ("waited" in done.stderr) == bool(says) == bool(content["notes"])
    assert not says or (says in done.stderr and says in content["notes"][0])
    is_disk = strict == CANNOT_TELL
    assert ("this compares the disk" in done.stdout.splitlines()[-1]) == is_disk
    assert content["verdict"] == ("ok in part" if is_disk else "ok")
    assert run("compare", folder, "--strict").returncode == strict


def busy(folder, builds, of_load):
    """Results of two builds, whose first rounds began with a load above the 2 CPUs."""
    results(folder, {"4k": builds})
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"host": {"cpu": {"online": 2}}}))
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line["load_average"] = 8.0 if line["repeat"] < of_load else 1.0
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("of_load, what, status, verdict", [
    (1, "slower", SLOWER, "worse"),
    (2, "cannot tell", SAME, "ok in part"),
])
def test_no_latency_is_called_longer_by_a_busy_machine(tmp_path, of_load, what, status, verdict):
    """Of 24 measurements 2 began with a load above the CPUs, or 4."""
    builds = {"a": list(rounds(12, p50=1000)), "b": list(rounds(12, p50=1300, seed=2))}
    folder = busy(tmp_path / "run", builds, of_load)
    done = run("compare", folder, "--json", tmp_path / "x")
    (p50,) = [line for line in done.stdout.splitlines() if line.startswith("bs=4k ") and " p50 " in line]
    assert p50.endswith(f": {what}") and done.returncode == status
    assert json.loads((tmp_path / "x").read_text())["verdict"] == verdict
    assert ("too noisy to tell: p50 of bs=4k" in done.stdout) == (what == "cannot tell")


@pytest.mark.parametrize("of_load, measured", [(0, [12]), (12, [12, 24, 48])])
def test_a_latency_that_does_not_count_does_not_end_the_rounds(tmp_path, monkeypatch, of_load, measured):
    """Requests per second are too noisy to tell, and p50 is longer: which tells of it, or does not."""
    asked = []

    def measure(*arguments, quiet):
        asked.append(arguments[arguments.index("--repeats") + 1])
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        busy(tmp_path / "run", {"a": list(rounds(asked[-1], noise=1, p50=1000)),
                                "b": list(rounds(asked[-1], noise=1, p50=1300, seed=2))}, of_load)

    monkeypatch.setattr(compare.pcache_sweep, "run", measure)
    options = argparse.Namespace(rounds=12, most_rounds=48, output=None, spec="gate", quiet=True)
    found = compare.measure(("a", "b"), options, 0.05, tmp_path / "run")
    assert asked == measured and bool(found.unclear) == (of_load > 0)


def test_gate_does_not_judge_the_cache_by_the_disk(gate_of):  # noqa: F811
    sample = type("S", (), {"case": type("C", (), {"id": "w"}), "metrics": {
        "backing": {"waited_for_space": 5, "writes": 10}}})
    status, content, junit, said, _ = gate_of(doubts=Doubts([sample], [sample], [], [], {}, 2))
    says = "1 of 1 measurements that write waited for writeback: this compares the disk"
    assert (status, content["verdict"], junit["writeback"]) == (0, "ok in part", ["Skipped"])
    assert said.splitlines()[-1] == f"gate: nothing is worse of what was judged; not judged: the cache: {says}"
    assert gate_of("--strict", doubts=Doubts([sample], [sample], [], [], {}, 2))[0] == CANNOT_TELL


def kept(folder, change, cpus=2):
    """Kept results, of which `change` may change each line."""
    info = json.loads((KEPT / "run.json").read_text())
    info["host"]["cpu"]["online"] = cpus
    lines = [json.loads(line) for line in (KEPT / "results.jsonl").read_text().splitlines()]
    for line in lines:
        change(line, info["cases"][line["case"]])
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return info


def page_of(folder, *options):
    done = run("report", folder, *options)
    assert done.returncode == 0, done.stderr
    (cases,) = (folder / "report").glob("*-cases.csv")
    with open(cases, encoding="utf-8") as file:
        rows = {row["case"]: row["doubtful"] for row in csv.DictReader(file)}
    return (folder / "report" / "report.html").read_text(), rows, done.stderr


def test_the_page_marks_what_waited(tmp_path):
    def change(line, case):
        if case["values"]["engine"] == "pcache" and case["values"]["rw"] == "randwrite":
            line["metrics"]["backing"] = {"writes": 10, "waited_for_space": 1}
    info = kept(tmp_path, change)
    page, rows, said = page_of(tmp_path, "--wide", "1000")
    marked = {c["id"] for c in info["cases"] if c["values"]["engine"] == "pcache" and c["values"]["rw"] == "randwrite"}
    assert {case for case, doubt in rows.items() if doubt} == marked and marked
    assert all(re.fullmatch(r"(\d+) of \1 waited for writeback", rows[case]) for case in marked)
    assert page.count(RED) == 1 and page.count('<tr class="marked">') == len(marked)
    assert "this compares the disk" in page and "this compares the disk" in said


def test_the_page_marks_a_load_above_the_cpus(tmp_path):
    def change(line, _):
        line["load_average"] = 2.5 if line["repeat"] == 0 else 2.0
    kept(tmp_path, change)
    page, rows, said = page_of(tmp_path, "--wide", "1000")
    assert page.count(RED) == 1 and set(rows.values()) == {"load above the CPUs in 1"}
    assert re.search(r"(\d+) of \d+ measurements began with a load above the 2 CPUs, up to 2.5", said)[1] == \
        str(len(rows))


def test_the_page_marks_a_wide_interval(tmp_path):
    def change(line, _):
        line["metrics"]["iops"] = (1.0, 1.3, 1.0)[line["repeat"]] * 1e5 if line["case"] == 0 else 1e5
    info = kept(tmp_path, change)
    page, rows, said = page_of(tmp_path)
    first = info["cases"][0]["id"]
    assert {case: doubt for case, doubt in rows.items() if doubt} == {first: "wide: ± 15%"}
    assert page.count(RED) == 1 and f"up to ± 15% in {first}" in said
    page, rows, said = page_of(tmp_path, "--wide", "20")
    assert RED not in page and not any(rows.values()) and not said


def test_what_was_not_kept_is_no_doubt(tmp_path):
    """Results from before there were these keys."""
    kept(tmp_path, lambda *_: None)
    doubts = Doubts.of(Run(tmp_path), None)
    assert doubts == Doubts([], [], [], [], {}, 2) and list(doubts.notes()) == [] == list(NO_DOUBTS.notes())


def test_a_doubt_is_of_its_case_alone():
    case = type("C", (), {"id": "x"})
    doubts = Doubts([], [], [], [], {case: Estimate(3, 1, 0.8, 1.2)}, 2)
    assert doubts.of_case(case) == "wide: ± 20%" and doubts.of_case(type("D", (), {"id": "y"})) == ""
