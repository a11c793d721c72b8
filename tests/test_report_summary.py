# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report begins with: the answer in one sentence, by its rules, and the figure for a slide; how figures name
what they show; the page on a small screen and on paper."""

import html
import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree

import numpy
import pytest
from matplotlib.text import Text

from measure.estimates import Estimate, estimate_of_all
from measure.libpcache import ROOT
from measure.report import figures, names, slide
from measure.report.run_values import RunValues
from measure.report.summary import Answer, answer_of
from measure.run_folder import Run
from test_compare import rounds
from test_report import KEPT
from test_sweep import run

SWEEPS = sorted((ROOT / "results" / "sweeps").iterdir())
ALL = {folder.name: folder for folder in [*SWEEPS, KEPT]}
CLAIMS = re.compile(r"\b(is faster|is slower|is as fast|is the fastest)\b")


def made(folder, axes, cases, builds=("",), hosts=()):
    """Results like kept ones. cases: [(values, {build: [metrics of each round, None where it failed]})]."""
    kept = json.loads((KEPT / "run.json").read_text())
    base = {"engine": "pcache", "rw": "randwrite", "bs": "4k", "iodepth": "1", "numjobs": "1", "persist": "flushcache",
            "cache_size": "1g", "working_set": "0.25", "data_crc": "0", "volume": "0"}
    full = [{**base, **values} for values, _ in cases]
    for values in full:
        if values["engine"] == "bound":
            values.setdefault("fence", "each")
            del values["data_crc"]
    info = kept | {"name": "made", "title": "Made up", "axes": axes, "repeats": 3,
                   "builds": [{"label": build, "dir": "/"} for build in builds],
                   "cases": [{"id": " ".join(f"{a}={v[a]}" for a in axes if a in v), "values": v} for v in full]}
    if hosts:
        info["hosts"] = [{"name": host} for host in hosts]
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(info))
    lines = []
    for index, (_, of_builds) in enumerate(cases):
        for build, measured in of_builds.items():
            for repeat, metrics in enumerate(measured):
                line = {"number": len(lines), "case": index, "build": build, "repeat": repeat}
                if metrics is None:
                    line |= {"ok": False, "error": "no luck"}
                else:
                    line |= {"ok": True, "metrics": metrics | ({"hosts": {h: metrics for h in hosts}} if hosts else {})}
                lines.append(json.dumps(line) + "\n")
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


def sentence(folder):
    return answer_of(RunValues(Run(folder))).sentence


def two_builds(tmp_path, *cases):
    """cases: (bs, rounds of a, rounds of b)."""
    return sentence(made(tmp_path / "run", ["bs"], [({"bs": bs}, {"a": list(a), "b": list(b)}) for bs, a, b in cases],
                         ("a", "b")))


# ---- Two builds ----

def test_a_slower_build_is_called_so_with_ratio_interval_and_n(tmp_path):
    said = two_builds(tmp_path, ("64k", rounds(12), rounds(12, 0.8, seed=2)),
                      ("4k", rounds(12), rounds(12, 0.7, seed=3)))
    found = re.fullmatch(r"Build b is slower than build a: (\S+) \((\S+) to (\S+), n 12\) times the requests per "
                         r"second, geometric mean of 2 cases, from (\S+) \(4 KiB\) to (\S+) \(64 KiB\)\.", said)
    assert found, said
    ratio, low, high, least, most = map(float, found.groups())
    assert low <= ratio <= high < 0.8 and ratio == pytest.approx((0.7 * 0.8) ** 0.5, abs=0.02)
    assert (least, most) == (pytest.approx(0.7, abs=0.02), pytest.approx(0.8, abs=0.02))


@pytest.mark.parametrize("speed, noise, says", [
    (1.25, 0.01, "Build b is faster than build a: 1.2"), (1.0, 0.01, "Build b is as fast as build a, to within 5%: "),
    (1.0, 0.5, "It cannot be told whether build b is faster than build a: "),
    (0.97, 0.15, "It cannot be told whether build b is faster than build a: ")])
def test_builds_are_told_apart_only_where_compare_does_so(tmp_path, speed, noise, says):
    said = two_builds(tmp_path, ("4k", rounds(12, 1, noise), rounds(12, speed, noise, seed=2)))
    assert said.startswith(says) and "n 12" in said
    assert ("cannot be told" in said) != bool(CLAIMS.search(said.replace("whether build b is faster", "")))


def test_of_few_rounds_there_are_figures_and_no_verdict(tmp_path):
    """All three rounds on one side of 1 are by chance one time in four."""
    said = two_builds(tmp_path, ("4k", rounds(3), rounds(3, 0.5, seed=2)))
    assert re.fullmatch(r"Build b made 0\.\d+ \(0\.\d+ to 0\.\d+, n 3\) times the requests per second of build a; "
                        r"3 rounds are too few for a verdict, which takes 9\.", said)
    (tmp_path / "alike").mkdir()
    said = two_builds(tmp_path / "alike", ("4k", rounds(3, 1, 0.1), rounds(3, 1, 0.1, seed=2)))
    assert said.startswith("It cannot be told whether build b is faster")
    (tmp_path / "seven").mkdir()
    said = two_builds(tmp_path / "seven", ("4k", rounds(7, 1, 0.001), rounds(7, 1, 0.001, seed=2)))
    assert not CLAIMS.search(said.replace("whether build b is faster", "")), "alike takes as many rounds"


def test_one_round_has_no_interval(tmp_path):
    said = two_builds(tmp_path, ("4k", rounds(1), rounds(1, 0.5, seed=2)))
    assert "(n 1: no interval)" in said and " to " not in said and "1 round is too few for a verdict" in said
    assert not CLAIMS.search(said)


@pytest.mark.parametrize("speed", [1.43, 1.6])
def test_cases_that_disagree_are_no_one_figure(tmp_path, speed):
    """Neither where they cancel out, nor where one outweighs the other."""
    said = two_builds(tmp_path, ("4k", rounds(12), rounds(12, 0.7, seed=2)),
                      ("64k", rounds(12), rounds(12, speed, seed=3)))
    assert said.startswith("It depends on the case whether build b is faster than build a: it is in 1 and slower in 1 "
                           "of 2 cases, from 0.") and "geometric mean" not in said


def test_one_case_that_is_slower_is_not_hidden_by_the_others(tmp_path):
    alike = [(bs, rounds(12), rounds(12, seed=3 + n)) for n, bs in enumerate(("512", "1k", "2k", "8k", "16k", "64k"))]
    said = two_builds(tmp_path, ("4k", rounds(12), rounds(12, 0.85, seed=2)), *alike)
    assert said.startswith("Build b is slower than build a in 1 of 7 cases (4 KiB); all together it makes ")


def test_rounds_that_lack_a_case_say_nothing_of_all(tmp_path):
    said = two_builds(tmp_path, ("4k", [*rounds(3), *[None] * 3], [*rounds(3), *[None] * 3]),
                      ("64k", [*[None] * 3, *rounds(3)], [*[None] * 3, *rounds(3)]))
    assert said.startswith("It cannot be told which of build a and build b is faster: no round has all cases of both")


def test_builds_are_named_by_what_they_are_of():
    said = sentence(ROOT / "results" / "sweeps" / "hot-set")
    assert re.match(r"Build b \(9acf961f68ef\) made 0\.\d+ \(.*, n 3\) times the requests per second of build a "
                    r"\(8c26ab922e60\), geometric mean of 5 cases, ", said)
    assert not CLAIMS.search(said) and said.endswith("3 rounds are too few for a verdict, which takes 9.")


def test_what_is_compared_of_two_builds_is_the_cache(tmp_path):
    """Each build has a bound of its own, which is no news."""
    said = sentence(made(tmp_path / "run", ["engine"], [
        ({"engine": engine}, {"a": list(rounds(12)), "b": list(rounds(12, speed, seed=2))})
        for engine, speed in (("pcache", 0.5), ("bound", 1.0))], ("a", "b")))
    assert re.match(r"Build b is slower than build a: 0\.(50|49|51) \(.*, n 12\) times the requests per second\.$",
                    said)


# ---- The bound, and other engines ----

def beside(tmp_path, engine, speeds, **more):
    cases = [({"engine": e, "bs": bs}, {"": list(rounds(12, s, seed=n))}) for n, (bs, of) in enumerate(speeds.items())
             for e, s in ((engine, 1), ("pcache", of))]
    return made(tmp_path / "run", ["engine", "bs"], cases, **more)


def test_the_part_of_the_bound_is_the_median_of_the_cases(tmp_path):
    said = sentence(beside(tmp_path, "bound", {"4k": 0.6, "8k": 0.9, "64k": 1.1}))
    found = re.fullmatch(r"pcache reaches 0\.(\d\d) \(0\.\d\d to 0\.\d\d, n 12\) of the bound, median of 3 cases, from "
                         r"0\.\d\d \(4 KiB\) to 1\.\d\d \(64 KiB\)\.", said)
    assert found and abs(int(found[1]) - 90) <= 2 and not CLAIMS.search(said)


def test_of_two_bounds_it_is_said_which():
    assert sentence(ROOT / "results" / "sweeps" / "fast-path").startswith(
        "pcache reaches 0.93 (0.91 to 0.94, n 7) of the bound that fences each store, median of 17 cases, from 0.70 ("
        "random read, 4 KiB, data_crc) to 2.13 (random write, 4 KiB).")


def test_pcache_is_compared_with_another_engine(tmp_path):
    assert sentence(beside(tmp_path, "uring", {"4k": 2, "64k": 2})).startswith(
        "pcache is faster than uring: 2.")
    assert sentence(ROOT / "results" / "sweeps" / "full-cache") == (
        "pcache made 1.19 (1.01 to 1.21, n 7) times the requests per second of uring; 7 rounds are too few for a "
        "verdict, which takes 9.")


# ---- One parameter, and what fits no rule ----

def methods(tmp_path, n=12, noise=0.01, **speeds):
    return sentence(made(tmp_path / "run", ["persist"], [
        ({"persist": name}, {"": list(rounds(n, speed, noise, seed=at))})
        for at, (name, speed) in enumerate(speeds.items())]))


def test_the_best_value_is_named_with_the_next_and_the_worst(tmp_path):
    said = methods(tmp_path, clwb=0.8, flushcache=1.0, clflushopt=0.5)
    assert re.fullmatch(r"flushcache is the fastest persist method, with 1\.2\d \(.*, n 12\) times the requests per "
                        r"second of clwb, the next, and (2\.0|1\.9)\d \(.*, n 12\) times those of clflushopt, the "
                        r"lowest\.", said)


@pytest.mark.parametrize("speeds, n, noise, says", [
    ({"clwb": 1.0, "flushcache": 1.005, "clflushopt": 0.5}, 12, 0.01,
     r"Which persist method is the fastest cannot be told, but clflushopt is slower: \w+ has 1\.0\d \("),
    ({"clwb": 1.0, "flushcache": 1.0, "clflushopt": 1.0}, 12, 0.01,
     r"No difference between the 3 values of persist method can be told: \w+, the highest, has 1\.0\d \("),
    ({"clwb": 1.0, "flushcache": 1.1}, 12, 0.5, "No difference between the 2 values of persist method can be told: "),
    ({"clwb": 1.0, "flushcache": 1.5}, 3, 0.01,
     r"Highest is flushcache, with 1\.\d+ \(.*, n 3\) times the requests per second of clwb; 3 rounds are too few "),
])
def test_the_best_value_is_not_named_where_it_cannot_be_told(tmp_path, speeds, n, noise, says):
    said = methods(tmp_path, n, noise, **speeds)
    assert re.match(says, said) and "is the fastest persist method, with" not in said


def test_sizes_are_compared_by_bytes(tmp_path):
    """Of requests a second small ones always make the most."""
    def of_size(size):
        return [m | {"bytes_per_s": m["iops"] * size} for m in rounds(12, 4096 / size ** 0.5, seed=size)]
    cases = [({"bs": bs}, {"": of_size(size)}) for bs, size in (("4k", 4096), ("64k", 65536))]
    said = sentence(made(tmp_path / "run", ["bs"], cases))
    assert re.match(r"64 KiB is the fastest request size, with (4\.0|3\.9)\d \(.*\) times the MiB per second of 4 KiB",
                    said)


def test_else_there_is_the_range(tmp_path):
    cases = [({"bs": bs, "numjobs": jobs}, {"": list(rounds(3, speed, seed=speed))}) for bs, jobs, speed in (
        ("4k", "1", 4), ("64k", "1", 1), ("4k", "2", 8), ("64k", "2", 2))]
    said = sentence(made(tmp_path / "run", ["bs", "numjobs"], cases))
    assert re.fullmatch(r"From \d+ k \(64 KiB, 1 thread; \d+\.?\d* k to \d+\.?\d* k, n 3\) to \d+ k requests per "
                        r"second \(4 KiB, 2 threads; .*, n 3\): the medians of 4 cases\.", said), said
    shutil.rmtree(tmp_path / "run")
    assert re.fullmatch(r"\d+\.?\d* k requests per second \(\d+\.?\d* k to \d+\.?\d* k, n 3\)\.",
                        sentence(made(tmp_path / "run", [], [({}, {"": list(rounds(3))})])))


def test_of_hosts_it_is_the_sum(tmp_path):
    folder = made(tmp_path / "run", [], [({}, {"": list(rounds(3))})], hosts=("n1", "n2", "n3"))
    assert sentence(folder).endswith("n 3); the sum of 3 hosts.")
    assert names.asked(Run(folder))[1].startswith("the hosts n1, n2, n3 at once, pcache, ")
    run("report", folder)
    page = (folder / "report" / "report.html").read_text()
    assert page.index("; the sum of 3 hosts.</p>") < page.index("<h3>All cases</h3>") < page.index("<h3>Hosts</h3>")


# ---- Traces ----

def test_of_traces_it_is_the_miss_ratio_beside_the_computed_ones():
    found = re.fullmatch(r"The cache misses (\S+) of all accesses \(n 1: no interval\), mean of 24 cases, from 0\.28 "
                         r"\(2_pools, cache 0\.5\) to 1\.00 \(loop, cache 0\.1\); computed for the same requests, LRU "
                         r"0\.68 and FIFO 0\.\d\d\.", sentence(ROOT / "results" / "sweeps" / "traces"))
    folder = Run(ROOT / "results" / "sweeps" / "traces")
    misses = [1 - s.metrics["replay"]["hit_ratio"] for s in folder.samples]
    assert found and float(found[1]) == round(sum(misses) / len(misses), 2)


def test_traces_of_two_builds_are_not_averaged(tmp_path):
    def hits(ratio):
        return [m | {"replay": {"bytes": 1, "hit_ratio": ratio}} for m in rounds(3)]
    said = sentence(made(tmp_path / "run", ["trace"], [
        ({"trace": f"{name}.xz"}, {"a": hits(at), "b": hits(at / 2)}) for name, at in (("x", 0.8), ("y", 0.4))],
        ("a", "b")))
    assert said == (
        "Build a misses 0.40 of all accesses (0.40 to 0.40, n 3), mean of 2 cases, from 0.20 (x) to 0.60 (y); "
        "build b misses 0.70 of all accesses (0.70 to 0.70, n 3), mean of 2 cases, from 0.60 (x) to 0.80 (y).")


def test_the_mean_of_several_medians_lies_in_its_interval():
    rng = numpy.random.default_rng(1)
    rows = rng.lognormal(0, 0.2, (7, 9)) * numpy.arange(1, 8)[:, None]
    found = estimate_of_all(rows, numpy.median)
    assert found.n == 9 and found.low <= found.median == numpy.median(numpy.median(rows, axis=1)) <= found.high
    assert estimate_of_all([[0, 0, 1], [1, 0, 0], [0, 1, 0]], numpy.mean) == Estimate(3, 0, 0, 1 / 3)
    assert estimate_of_all([[], []], numpy.mean) is None


# ---- Words ----

def test_what_was_asked_is_in_the_order_of_the_file_and_constants_are_named_once(tmp_path):
    folder = made(tmp_path / "run", ["persist", "bs"], [
        ({"persist": persist, "bs": bs}, {"": list(rounds(3))}) for persist in ("clwb", "auto", "clflushopt")
        for bs in ("64k", "512", "4k")])
    what_varies, constant = names.asked(Run(folder))
    assert what_varies == [("persist method", "clwb, auto, clflushopt"), ("request size", "64 KiB, 512 B, 4 KiB")]
    assert constant == "pcache, random write, 1 thread, 1 in flight, cache 1 GiB, working set 0.25 of the cache"


@pytest.mark.parametrize("folder", SWEEPS, ids=[folder.name for folder in SWEEPS])
def test_labels_tell_cases_apart_and_say_no_constant(folder):
    kept = Run(folder).by_build()
    labels = names.labels(kept, kept.cases)
    assert len(set(labels.values())) == len(kept.cases) and list(labels) == kept.cases
    for word in names.constants(kept):
        assert all(word not in label.split(", ") for label in labels.values()), word


def test_a_case_of_which_all_is_usual_has_a_name_all_the_same(tmp_path):
    kept = Run(made(tmp_path / "run", ["data_crc", "fsync"], [
        ({"data_crc": crc, "fsync": fsync}, {"": list(rounds(1))})
        for crc, fsync in (("0", "0"), ("1", "0"), ("0", "1"))]))
    assert list(names.labels(kept, kept.cases).values()) == [
        "no data_crc, no fsync", "data_crc, no fsync", "no data_crc, fsync after each write"]
    assert list(names.labels(kept, kept.cases[:1]).values()) == [kept.cases[0].id]


# ---- Figures ----

def slide_of(folder):
    values = RunValues(Run(folder))
    return slide.of_answer(values, answer_of(values), "A title")


def test_rows_are_in_the_order_of_the_file(tmp_path):
    figure, _ = slide_of(made(tmp_path / "run", ["persist"], [
        ({"persist": name}, {"": list(rounds(3, speed))})
        for name, speed in (("clwb", 1), ("auto", 3), ("clflushopt", 2))]))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clwb", "persist auto", "clflushopt"]
    low, high = axes.get_ylim()
    assert low > high, "the first is on top"
    assert axes.get_xlabel() == "requests per second" and axes.get_xlim()[0] == 0
    figures.close(figure)


def test_too_many_rows_are_groups_of_the_first_parameters(tmp_path):
    cases = [({"rw": rw, "bs": bs, "persist": persist}, {"": list(rounds(3))}) for rw in ("write", "read", "randread")
             for bs in ("64k", "4k") for persist in "abcde"]
    figure, note = slide_of(made(tmp_path / "run", ["rw", "bs", "persist"], cases))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        f"{rw}, {bs}" for rw in ("sequential write", "sequential read", "random read") for bs in ("64 KiB", "4 KiB")]
    assert "geometric mean" in note and "pattern, request size" in note
    figures.close(figure)


@pytest.mark.parametrize("folder", SWEEPS, ids=[folder.name for folder in SWEEPS])
def test_nothing_lies_over_anything_on_a_slide(folder):
    figure, _ = slide_of(folder)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert axes.get_legend() is None and not figure.legends
    texts = [*axes.get_yticklabels(), *axes.texts, axes.xaxis.label, *figure.texts]
    boxes = [Text.get_window_extent(text) for text in texts if text.get_text()]
    whole = figure.bbox
    for n, box in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in boxes[n + 1:]), texts[n].get_text()
    figures.close(figure)


@pytest.mark.parametrize("ratios", [(0.05, 0.17), (0.13, 0.4), (0.3, 1.1), (0.02, 2), (0.001, 5)])
def test_values_of_ratios_stand_inside_the_axes(ratios):
    """However small they are, and whether the axis is logarithmic: the names of the rows are beside it."""
    rows = {f"row {ratio}": Estimate(5, ratio, ratio * 0.95, ratio * 1.05) for ratio in ratios}
    figure, axes = figures.pyplot.subplots(figsize=(12, 7))
    slide._draw_rows(axes, rows, Answer("", "ratio", {}, one="the bound"), {}, 16)  # pylint: disable=protected-access
    figure.canvas.draw()
    values = [text for text in axes.texts if not text.get_text().startswith("1 =")]
    assert len(values) == len(rows)
    assert all(Text.get_window_extent(text).x0 > axes.bbox.x0 for text in values)
    figures.close(figure)


def test_names_of_lines_stand_beside_the_axes_and_apart():
    """Whose ends are all at the same place."""
    curves = {f"line {n}": {1: Estimate(3, 1, 1, 1), 2: Estimate(3, 1 + n / 100, 1, 1.2)}
              for n in range(figures.MOST_LINES)}
    percentiles = {name: {50.0: of[1], 99.0: of[2]} for name, of in curves.items()}
    for figure in (figures.lines("title", "iodepth", "y", curves, bound=1), figures.percentiles("title", percentiles)):
        figure.canvas.draw()
        (axes,) = figure.axes
        boxes = [Text.get_window_extent(text) for text in axes.texts if text.get_text() in curves]
        assert len(boxes) == len(curves) and axes.get_legend() is None
        assert all(axes.bbox.x1 < box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1:])
        figures.close(figure)


@pytest.mark.parametrize("low, high", [(9e3, 9e9), (9e3, 9e3)])
def test_names_stand_near_the_ends_of_their_lines(low, high):
    figure = figures.percentiles("title", {
        name: {50.0: Estimate(1, at, at, at)} for name, at in (("low", low), ("high", high))})
    figure.canvas.draw()
    (axes,) = figure.axes
    for text in axes.texts:
        box = Text.get_window_extent(text)
        end = axes.transData.transform(text.xy)[1]
        assert min(abs(end - box.y0), abs(end - box.y1)) < 2 * box.height, text.get_text()
    figures.close(figure)


def test_a_percentile_of_nothing_has_no_place_in_a_logarithm():
    nothing = Estimate(1, 0, 0, 0)
    figure = figures.percentiles("title", {
        "some": {50.0: Estimate(1, 9e3, 9e3, 9e3), 99.0: nothing}, "more": {50.0: Estimate(1, 9e4, 9e4, 9e4)},
        "none": {50.0: nothing}})
    figure.canvas.draw()
    assert {text.get_text() for text in figure.axes[0].texts} == {"some", "more"}
    figures.close(figure)


def test_names_are_moved_no_further_than_is_needed():
    assert figures.spread([0.1, 0.5, 0.9], [0.1, 0.1, 0.1]) == [0.1, 0.5, 0.9]
    assert figures.spread([0, 0, 0.9], [0.1, 0.1, 0.1]) == [0, 0.1, 0.9]
    assert figures.spread([1, 1], [0.2, 0.2]) == pytest.approx([0.7, 0.9]), "below the top"


def test_the_names_of_rounds_stand_beside_the_axes():
    figure = figures.over_time("title", {f"round {n}": [(0, 1), (100, 2)] for n in range(3)})
    figure.canvas.draw()
    (axes,) = figure.axes
    box = axes.get_legend().get_window_extent()
    assert axes.bbox.x1 <= box.x0 and box.x1 <= figure.bbox.x1
    figures.close(figure)


# ---- The page ----

@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: the page's folder}, of all that is kept."""
    parent = tmp_path_factory.mktemp("pages")
    for name, folder in ALL.items():
        run("report", folder, "--output", parent / name)
    return {name: parent / name for name in ALL}


def test_the_first_screen_is_first(pages):
    for name, folder in pages.items():
        page = (folder / "report.html").read_text()
        at = [page.index(text) for text in ('<p class="answer">', 'class="slide"', "<h3>How</h3>",
                                            "<h3>Throughput</h3>", "<h3>All cases</h3>", "<h3>Machine</h3>")]
        assert at == sorted(at) and page.count('<p class="answer">') == 1
        assert all(at[0] < page.index(red) < at[1] for red in ('<p class="doubt">',) if red in page)
        answer = html.unescape(re.search('<p class="answer">(.*?)</p>', page)[1])
        assert answer == sentence(ALL[name])


def test_time_charts_come_behind_the_other_figures(tmp_path):
    folder = made(tmp_path / "run", ["bs"], [({"bs": bs}, {"": list(rounds(2, p50=9000))}) for bs in ("4k", "64k")])
    (folder / "raw").mkdir()
    for number in range(4):
        (folder / "raw" / f"{number:05}.csv").write_text(
            "ms,read_iops,write_iops\n" + "".join(f"{ms},0,{ms}\n" for ms in range(100, 1100, 100)))
    run("report", folder)
    page = (folder / "report" / "report.html").read_text()
    at = [page.index(f"<h3>{title}</h3>") for title in ("Throughput", "Latency", "Over time", "All cases")]
    assert at == sorted(at)


def test_the_slide_is_kept_as_png_and_svg(pages):
    for name, folder in pages.items():
        width, height = struct.unpack(">II", (folder / f"{name}-summary.png").read_bytes()[16:24])
        assert width >= 1280 and width / height == pytest.approx(16 / 9, rel=0.01)
        svg = xml.etree.ElementTree.parse(folder / f"{name}-summary.svg").getroot()
        texts = "\n".join("".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text"))
        title = Run(ALL[name]).info["title"]
        assert title in texts, "a slide says itself what it is"
        page = (folder / "report.html").read_text()
        inlined = re.search(r'class="slide">.*?</figure>', page, re.S)[0]
        assert "<svg" in inlined and title not in html.unescape(inlined), "the page's heading says it"
        assert f"{name}-summary.png" in inlined and f"{name}-summary.svg" in inlined


def test_two_runs_have_a_first_screen_each(tmp_path):
    run("report", SWEEPS[0], SWEEPS[1], "--output", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<p class="answer">') == page.count('class="slide"') == 2
    assert {path.name for path in tmp_path.glob("*-summary.svg")} == {f"{kept.name}-summary.svg" for kept in SWEEPS[:2]}


def test_a_failure_that_came_again_is_said_once(pages):
    page = (pages["hot-set"] / "report.html").read_text()
    assert page.count("job global dropped") == 1 and "job global dropped (3 times)" in page


def test_a_small_screen_does_not_scroll_sideways(pages, tmp_path):
    """What is wide scrolls in its own box."""
    chromium = shutil.which("chromium")
    assert chromium, "scripts/setup installs chromium"
    frames = "".join(f'<iframe width="390" height="800" src="{(folder / "report.html").as_uri()}"></iframe>'
                     for folder in pages.values())
    (tmp_path / "frames.html").write_text(f"""<!DOCTYPE html><body>{frames}<p id="found"></p><script>onload = () => {{
        found.textContent = [...document.querySelectorAll("iframe")].map(frame => {{
            const page = frame.contentDocument.documentElement;
            return frame.contentWindow.innerWidth + "/" + page.scrollWidth; }}).join(" "); }};</script>""")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=10000",
         "--dump-dom", (tmp_path / "frames.html").as_uri()], capture_output=True, text=True, timeout=400, check=False)
    found = re.search('<p id="found">(.*?)</p>', done.stdout)[1].split()
    assert len(found) == len(pages)
    widths = [tuple(map(int, one.split("/"))) for one in found]
    assert all(window == 390 >= page for window, page in widths), found


def test_paper_cuts_no_figure(pages):
    style = re.search(r"@media print \{(.*?)\n\}", (pages["smoke"] / "report.html").read_text(), re.S)[1]
    assert re.search(r"figure[^{]*\{ break-inside: avoid; \}", style) and ".wide { overflow: visible; }" in style
