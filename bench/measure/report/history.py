# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep history FILE --add PATH...
pcache-sweep history FILE [--output FOLDER] [--last N] [--least PERCENT]

Results of many commits, a line of JSON each (results/README.md). --add puts folders of `pcache-sweep run`, and what
`gate --json` has written, behind those that are there; add them in the order of the commits. Without it the page
history.html is drawn, with figures as PNG and all changes as CSV, into FOLDER (default: beside FILE), and the changes
are named on standard output: where a series changes for good, by E-divisive with a permutation test (p < 0.005), and
by --least (1 %) or more. Figures of different machines, or of counts by different compilers, are different series.
What is doubtful (it waited for writeback, or the load was above the CPUs) is drawn hollow, and is no evidence.
"""
import dataclasses
import pathlib
import statistics

from ..change_points import LEAST, LEAST_CHANGE, PERMUTATIONS, SIGNIFICANT, change_points
from ..command_line import Parser
from ..errors import MeasureError
from ..estimates import Estimate
from ..history_file import BETTER_IS_MORE, append, entries_of, load
from ..text_table import as_text
from . import figures
from .page import Page, render

MOST_FIGURES = 60  # of a page; series with changes come first
HEAD = ["commit", "metric", "of", "before", "behind", "ratio", "interval", "p", "is", "machine"]


@dataclasses.dataclass(frozen=True)
class Point:
    commit: str
    value: Estimate
    doubt: str


@dataclasses.dataclass(frozen=True)
class Series:
    machine: str
    name: str
    metric: str
    case: str
    points: list
    changes: list  # of (index into points, ChangePoint)

    @property
    def title(self):
        return f"{self.metric}, {self.case} ({self.name})"

    def levels(self):
        """[(first, last index, median)] between the changes."""
        ends = [0, *(at for at, _ in self.changes), len(self.points)]
        for first, behind in zip(ends, ends[1:]):
            values = [p.value.median for p in self.points[first:behind] if not p.doubt]
            if values:
                yield first, behind - 1, statistics.median(values)

    def is_worse(self, change):
        return (change.ratio.median < 1) == BETTER_IS_MORE[self.metric]


def series_of(entries, least_change):
    """In the order of the file."""
    points = {}
    for entry in entries:
        for metric, cases in entry.figures.items():
            if metric not in BETTER_IS_MORE:
                continue
            for case, figure in cases.items():
                value = Estimate(figure["n"], figure["median"], figure["low"], figure["high"])
                points.setdefault((entry.machine, entry.name, metric, case), []).append(
                    Point(entry.commit, value, entry.doubt))
    return [Series(*key, of, list(_changes(of, least_change))) for key, of in points.items()]


def _changes(points, least_change):
    """What is nothing, or doubtful, is no evidence."""
    judged = [at for at, point in enumerate(points) if not point.doubt and point.value.median > 0]
    for change in change_points([points[at].value.median for at in judged], least_change):
        yield judged[change.at], change


def row_of(series, at, change):
    ratio: Estimate = change.ratio
    levels = {first: median for first, _, median in series.levels()}
    before = [median for first, median in levels.items() if first < at][-1]
    return [series.points[at].commit, series.metric, f"{series.case} ({series.name})", number(before),
            number(levels[at]), f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", f"{change.p:.2g}",
            "worse" if series.is_worse(change) else "better", series.machine]


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def draw(file, entries, options):
    folder = options.output or file.with_name(file.stem + "-page")
    folder.mkdir(parents=True, exist_ok=True)
    page, all_series = Page(folder), series_of(entries, options.least / 100)
    latest_first = sorted(((s, at, c) for s in all_series for at, c in s.changes), key=lambda one: -one[1])
    rows = [row_of(*one) for one in latest_first]
    marked = [n for n, row in enumerate(rows) if row[HEAD.index("is")] == "worse"]
    shown = sorted(all_series, key=lambda s: not s.changes)[:MOST_FIGURES]
    content = {
        "title": f"History of {file.stem}", "entries": len(entries), "first": entries[0].commit,
        "last": entries[-1].commit, "series": len(all_series), "significant": SIGNIFICANT, "least": LEAST,
        "permutations": PERMUTATIONS, "least_change": options.least,
        "doubtful": sum(bool(entry.doubt) for entry in entries),
        "changes": page.table("changes", HEAD, rows, marked=marked), "left_out": len(all_series) - len(shown)}
    content["figures"] = [
        {"machine": s.machine, **page.figure(f"{s.metric}-{s.case}-{s.name}", figures.history(s), s.title)}
        for s in shown]
    (folder / "history.html").write_text(render("history.html", **content), encoding="utf-8")
    if rows:
        print(as_text(HEAD, rows), end="")
    print(f"history: {len(entries)} lines, {len(all_series)} series, {len(rows)} changes, {len(marked)} of them to the "
          f"worse; {folder}/history.html")


def add(file, entries, paths):
    known, new = {entry.key for entry in entries}, []
    for path in paths:
        for entry in entries_of(path):
            if entry.key in known:
                print(f"history: {path}: {entry.commit} of {entry.started} is there already")
                continue
            known.add(entry.key)
            new.append(entry)
            print(f"history: {path}: {entry.commit}, {sum(map(len, entry.figures.values()))} figures" +
                  (f", doubtful: {entry.doubt}" if entry.doubt else ""))
    append(file, new)


def main(arguments):
    parser = Parser("history", __doc__)
    parser.add_argument("file", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--add", type=pathlib.Path, nargs="+", metavar="PATH")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--last", type=int, metavar="N", help="lines alone")
    parser.add_argument("--least", type=float, default=100 * LEAST_CHANGE, metavar="PERCENT")
    options = parser.parse_args(arguments)
    if options.last is not None and options.last < 1:
        parser.error(f"--last {options.last}: expected 1 or more")
    if not 0 <= options.least < 100:
        parser.error(f"--least {options.least:g}: expected a percentage")
    entries = load(options.file)
    if options.add:
        add(options.file, entries, options.add)
        return 0
    if not entries:
        raise MeasureError(f"{options.file}: has no results; pcache-sweep history {options.file} --add FOLDER puts "
                           "some there")
    draw(options.file, entries[-options.last:] if options.last else entries, options)
    return 0
