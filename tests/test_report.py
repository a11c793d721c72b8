# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report over results that are made up from kept ones."""

import csv
import json
import re
import shutil

from measure.libpcache import ROOT
from measure.report import published
from measure.report.page import Page
from test_sweep import run

KEPT = sorted((ROOT / "tests" / "testdata" / "sweeps").iterdir())[0]


def test_what_has_failed_and_was_tried_again_is_no_failure(tmp_path):
    shutil.copy(KEPT / "run.json", tmp_path)
    lines = (KEPT / "results.jsonl").read_text()
    failed = json.loads(lines.splitlines()[0]) | {"ok": False, "error": "no luck"}
    (tmp_path / "results.jsonl").write_text(json.dumps(failed) + "\n" + lines)
    run("report", tmp_path)
    assert "no luck" not in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "results.jsonl").write_text(lines + json.dumps(failed) + "\n")
    run("report", tmp_path)
    assert "no luck" in (tmp_path / "report" / "report.html").read_text()


def test_two_builds_have_figures_of_their_own(tmp_path):
    """As if a build b, half as fast, had been measured in the same rounds; of it, one case has failed."""
    info = json.loads((KEPT / "run.json").read_text())
    info["builds"] = [{"label": "a", "dir": "/a"}, {"label": "b", "dir": "/b"}]
    lines = []
    for line in map(json.loads, (KEPT / "results.jsonl").read_text().splitlines()):
        lines.append(line | {"build": "a"})
        if info["cases"][line["case"]]["values"]["engine"] == "uring":
            continue
        metrics = {**line["metrics"], "iops": line["metrics"]["iops"] / 2}
        half = line | {"build": "b", "number": 1000 + line["number"], "metrics": metrics}
        lines.append(half if line["case"] else half | {"ok": False, "error": "b has failed"})
    (tmp_path / "run.json").write_text(json.dumps(info))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("report", tmp_path)
    with open(tmp_path / "report" / f"{info['name']}-cases.csv", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    of_a = {case for case in rows if case.endswith(" build=a")}
    of_b = {case for case in rows if case.endswith(" build=b")}
    assert len(of_a) == len(of_b) + 1 > 2 and len(rows) > len(of_a | of_b), "the disk has no build"
    for case in of_b:
        a, b = rows[case[:-1] + "a"], rows[case]
        assert a["n"] == b["n"] == "3"
        fast, slow = (float(row["requests/s"].replace(",", "")) for row in (a, b))
        assert abs(fast / slow - 2) < 0.01
        assert a["ratio to bound"] == b["ratio to bound"], "each is of the bound of its own build"
    page = (tmp_path / "report" / "report.html").read_text()
    failed = info["cases"][0]["id"]
    assert f"{failed} build=b: b has failed" in page and "Not measured" not in page


def test_files_of_the_same_name_are_numbered(tmp_path):
    page = Page(tmp_path)
    for n in range(3):
        page.table("two of a kind", ["n"], [[n]])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "two-of-a-kind-2.csv", "two-of-a-kind-3.csv", "two-of-a-kind.csv"]


def test_one_measurement_has_no_interval(tmp_path):
    shutil.copy(KEPT / "run.json", tmp_path)
    lines = map(json.loads, (KEPT / "results.jsonl").read_text().splitlines())
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines if line["repeat"] == 0))
    run("report", tmp_path)
    (cases,) = (tmp_path / "report").glob("*-cases.csv")
    with open(cases, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["n"] for row in rows} == {"1"} and {row["interval"] for row in rows} == {""}
    ratios = [row["ratio to bound"] for row in rows if row["ratio to bound"]]
    assert ratios and all(" to " not in ratio for ratio in ratios)


def test_the_published_figures_are_those_of_their_source():
    """All 80: a figure that was copied wrong is in every report."""
    lines = (ROOT / "tests" / "testdata" / "published_persist_methods.csv").read_text().splitlines()
    head, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    assert head[3:] == published.SIZES
    source = {}
    for memory, rw, method, *figures in rows:
        source.setdefault((memory, rw), {})[method] = [int(figure) for figure in figures]
    assert source == published.TABLE
    assert sum(len(figures) for methods in source.values() for figures in methods.values()) == 80


def how_long(tmp_path, volumes, warmup_s, runtimes_ms=()):
    """What the page says of kept results, made to be of these volumes and to have taken so long."""
    info = json.loads((KEPT / "run.json").read_text()) | {"warmup_s": warmup_s, "runtime_s": 10.0}
    for case, volume in zip(info["cases"], volumes * len(info["cases"])):
        case["values"]["volume"] = volume
    (tmp_path / "run.json").write_text(json.dumps(info))
    lines = list(map(json.loads, (KEPT / "results.jsonl").read_text().splitlines()))
    for number, line in enumerate(lines):
        for rw in ("read", "write"):
            if runtimes_ms and rw in line["metrics"]:
                line["metrics"][rw]["runtime_ms"] = runtimes_ms[number % len(runtimes_ms)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("report", tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    return re.search(r"measurements of each \(([^)]*)\), by rounds", page)[1]


def test_how_long_a_measurement_took_is_said_as_it_was(tmp_path):
    """Of a volume that is through in 50 ms, the 10 s that it might have had say nothing."""
    assert how_long(tmp_path, ["0"], 2.0) == "10 s after 2 s of warm-up"
    assert how_long(tmp_path, ["0"], 0.0) == "10 s"
    assert how_long(tmp_path, ["0.5"], 0.0, [50, 1250]) == "a volume, which took 50 ms to 1.2 s"
    both = how_long(tmp_path, ["0", "0.5"], 2.0, [50])
    assert both == "10 s after 2 s of warm-up, or a volume, which took 50 ms to 50 ms"


def test_what_is_put_into_the_page_is_escaped(tmp_path):
    """A title and an error are somebody's text; the figures are ours, and stay what they are."""
    info = json.loads((KEPT / "run.json").read_text()) | {"title": "<script>a & b</script>"}
    (tmp_path / "run.json").write_text(json.dumps(info))
    lines = (KEPT / "results.jsonl").read_text()
    failed = json.loads(lines.splitlines()[0]) | {"number": 9999, "ok": False, "error": "<b>bad</b>"}
    (tmp_path / "results.jsonl").write_text(lines + json.dumps(failed) + "\n")
    run("report", tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>" not in page and "<b>bad" not in page
    assert page.count("&lt;script&gt;a &amp; b&lt;/script&gt;") == 2, "the title and the heading"
    assert "&lt;b&gt;bad&lt;/b&gt;" in page and page.count("<svg") == page.count("</svg>") > 1
