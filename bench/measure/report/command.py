# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep report FOLDER... [--output FOLDER]

One page, report.html, that needs nothing else: tables, figures, the method and the machine. Beside it
the tables as CSV and the figures as PNG. Without --output it goes into the first FOLDER.
"""
import csv
import html
import pathlib

from ..command_line import Parser
from ..errors import MeasureError
from ..estimates import CONFIDENCE, LEAST_FOR_INTERVAL, estimate, paired_ratios
from ..run_folder import Run, number_of
from ..sizes import MIB
from . import figures, published

PERCENTILES = ["p50", "p90", "p95", "p99", "p99.9", "p99.99"]
MOST_SERIES = 12
MOST_NAMED = 6
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #bbb; }
h3 { font-size: 1rem; } .of { color: #555; margin-top: .2rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { background: #f1f1f1; position: sticky; top: 0; }
th:first-child, td:first-child, .facts td { text-align: left; white-space: normal; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figcaption { color: #444; font-size: 13px; }
figure svg { max-width: 100%; height: auto; } .note { background: #f6f6f6; padding: .6rem 1rem; }
@media print { body { max-width: none; } th { position: static; } }
"""


def escape(text):
    return html.escape(str(text))


class Page:
    """HTML, and the files beside it."""

    def __init__(self, folder):
        self.folder, self.parts, self.names = folder, [], set()

    def add(self, text):
        self.parts.append(text)

    def table(self, name, head, rows, kind="figures"):
        """The same table on the page and as a CSV file."""
        with open(self.folder / f"{self._free(name)}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([head, *rows])
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
        self.add(f'<div class="wide"><table class="{kind}"><thead><tr>' +
                 "".join(f"<th>{escape(h)}</th>" for h in head) +
                 f"</tr></thead><tbody>\n{body}</tbody></table></div>\n")

    def figure(self, name, figure, caption):
        figures.write_png(figure, self.folder / f"{self._free(name)}.png")
        self.add(f"<figure role=\"img\" aria-label=\"{escape(caption)}\">{figures.as_svg(figure)}"
                 f"<figcaption>{escape(caption)}</figcaption></figure>\n")
        figures.close(figure)

    def _free(self, name):
        name = "".join(c if c.isalnum() or c in "-." else "-" for c in name).strip("-")
        free, number = name, 1
        while free in self.names:
            number += 1
            free = f"{name}-{number}"
        self.names.add(free)
        return free


def spread_text(value):
    """Of one measurement nothing is known of where its median lies."""
    return f"± {100 * value.half_width:.1f} %" if value and value.n > 1 else ""


def interval_text(value):
    if not value:
        return ""
    return f"{value.median:.3f}" + (f" ({value.low:.3f} to {value.high:.3f})" if value.n > 1 else "")


def milliseconds(ms):
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms"


def microseconds(ns):
    us = ns / 1000
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


class Section:
    """One run, on the page."""

    def __init__(self, run, page):
        self.run, self.page = run.by_build(), page
        self.axis = figures.x_axis(self.run)

    def add(self, with_title):
        run, page = self.run, self.page
        if with_title:
            page.add(f"<h2>{escape(run.info['title'] or run.name)}</h2>\n")
        page.add(f'<p class="of">{escape(run.name)}, begun {escape(run.info["started"])}, '
                 f'measured is {escape(_joined(run.sources()))}</p>\n')
        self._method()
        if run.failed:
            failed = "; ".join(f"{escape(c.id)}: {escape(e)}" for c, _, e in run.failed)
            page.add(f'<p class="note">Failed: {failed}</p>\n')
        left_out = [c.id for c in run.cases if not self._estimate(_iops, c) and c not in [f for f, _, _ in run.failed]]
        if left_out:
            page.add(f'<p class="note">Not measured, since this machine cannot or the run was cut ({len(left_out)} of '
                     f'{len(run.cases)} cases): {escape("; ".join(left_out[:MOST_NAMED]))}'
                     f'{" ..." if len(left_out) > MOST_NAMED else ""}</p>\n')
        self._throughput()
        self._latency()
        self._series()
        self._published()
        self._table()
        self._machine()

    def _how_long(self):
        """Of a measurement: for a time, or until its volume is through."""
        info, parts = self.run.info, []
        if any(case.is_timed for case in self.run.cases):
            warmup = f" after {info['warmup_s']:g} s of warm-up" if info["warmup_s"] else ""
            parts.append(f"{info['runtime_s']:g} s{warmup}")
        if took := [sample.runtime_ms for sample in self.run.samples if not sample.case.is_timed]:
            parts.append(f"a volume, which took {milliseconds(min(took))} to {milliseconds(max(took))}")
        return ", or ".join(parts)

    def _method(self):
        info = self.run.info
        self.page.add(
            f"<p>{len(self.run.cases)} cases, {info['repeats']} measurements of each ({self._how_long()}), by rounds: "
            f"every case once in each round, in a shuffled order (seed {info['seed']}). Given are medians; an interval "
            f"is the {CONFIDENCE:.0%} bootstrap interval of the median, or from {LEAST_FOR_INTERVAL - 1} measurements "
            "and less their range. A ratio is of measurements of the same round.</p>\n")

    # ---- Figures ----

    def _label(self, case, without):
        parts = [f"{a}={case.values[a]}" for a in self.run.axes if a in case.values and a not in without]
        return ", ".join(parts) or case.id

    def _grouped(self, cases):
        """{figure's label: {line's label: {x: case}}}: by rw where it differs, then as many lines as can be told
        apart; cases without the axis have no x."""
        grouped = {}
        facets = [a for a in ("rw",) if a in self.run.axes]
        for case in cases:
            if self.axis not in case.values:
                continue
            facet = self._label(case, set(self.run.axes) - set(facets)) if facets else self.run.name
            line = self._label(case, {self.axis, *facets})
            grouped.setdefault(facet, {}).setdefault(line, {})[number_of(self.axis, case.values[self.axis])] = case
        for facet, curves in grouped.items():
            names = list(curves)
            for first in range(0, len(names), figures.MOST_LINES):
                part = names[first:first + figures.MOST_LINES]
                yield facet, {name: curves[name] for name in part}

    def _values(self, metric, case):
        return {s.repeat: metric(s) for s in self.run.samples if s.case is case}

    def _estimate(self, metric, case):
        return estimate(list(self._values(metric, case).values()))

    def _ratio(self, case):
        bound = self.run.bound_of(case)
        if not bound:
            return None
        return estimate(paired_ratios(self._values(_iops, case), self._values(_iops, bound)))

    def _throughput(self):
        run, page = self.run, self.page
        page.add("<h3>Throughput</h3>\n")
        by_bytes = self.axis == "bs"
        metric = (lambda s: s.metrics["bytes_per_s"] / MIB) if by_bytes else _iops
        unit = "MiB per second" if by_bytes else "requests per second"
        if not self.axis:
            values = {c.id: self._estimate(metric, c) for c in run.cases}
            page.figure(f"{run.name}-throughput", figures.bars(unit, unit, {k: v for k, v in values.items() if v}),
                        f"Median {unit} of each case, with its interval.")
        else:
            for facet, curves in self._grouped(run.cases):
                drawn = self._curves(curves, lambda case: self._estimate(metric, case))
                if drawn:
                    page.figure(f"{run.name}-throughput-{facet}", figures.lines(facet, self.axis, unit, drawn),
                                f"Median {unit}, {facet}.")
        ratios = {c: self._ratio(c) for c in run.cases}
        if not any(ratios.values()):
            return
        page.add("<h3>Ratio to the bound</h3>\n<p>The bound is an engine that stores, and fences, or loads the same "
                 "bytes in the same memory, and does nothing else; 1 is as fast as that.</p>\n")
        if not self.axis:
            page.figure(f"{run.name}-ratio", figures.bars("ratio to the bound", "requests per second / the bound's",
                                                          {c.id: v for c, v in ratios.items() if v}, bound=1),
                        "Median ratio to the bound, with its interval.")
            return
        for facet, curves in self._grouped([c for c, v in ratios.items() if v]):
            drawn = self._curves(curves, lambda case: ratios[case])
            page.figure(f"{run.name}-ratio-{facet}",
                        figures.lines(facet, self.axis, "requests per second / the bound's", drawn, bound=1),
                        f"Median ratio to the bound, {facet}.")

    @staticmethod
    def _curves(curves, value_of):
        drawn = {}
        for label, points in curves.items():
            values = {x: value_of(case) for x, case in points.items()}
            values = {x: v for x, v in values.items() if v}
            if values:
                drawn[label] = values
        return drawn

    def _latency(self):
        curves = {}
        for case in self.run.cases:
            of_case = {}
            for name in PERCENTILES:
                value = None
                if _has_latency(self.run, case):
                    value = self._estimate(lambda s, name=name: _latency(s, name), case)
                if value:
                    of_case[float(name[1:])] = value
            if of_case:
                curves[case.id] = of_case
        if not curves:
            return
        self.page.add("<h3>Latency</h3>\n")
        names = list(curves)
        for first in range(0, min(len(names), 8 * figures.MOST_LINES), figures.MOST_LINES):
            part = names[first:first + figures.MOST_LINES]
            self.page.figure(f"{self.run.name}-latency",
                             figures.percentiles("latency by percentile", {n: curves[n] for n in part}),
                             "Median, over the rounds, of each percentile of the latency of requests, from submission "
                             "to completion.")

    def _series(self):
        shown = 0
        for case in self.run.cases:
            rounds = {}
            for sample in self.run.samples:
                if sample.case is case and len(rounds) < figures.MOST_LINES:
                    points = [(ms, read + write) for ms, read, write in sample.series()]
                    if len(points) >= 5:
                        rounds[f"round {sample.repeat}"] = points
            if not rounds:
                continue
            if shown == 0:
                self.page.add("<h3>Over time</h3>\n")
            shown += 1
            if shown > MOST_SERIES:
                self.page.add(f"<p>The first {MOST_SERIES} cases; all series are in raw/*.csv.</p>\n")
                return
            self.page.figure(f"{self.run.name}-time-{case.id}", figures.over_time(case.id, rounds),
                             f"Requests per second over a run, each round: {case.id}.")

    # ---- Tables ----

    def _published(self):
        """The published comparison of persist methods beside this one, where this one has its sizes."""
        run = self.run
        if "build" in run.axes:
            return  # it is of one
        found = {}
        for case in run.cases:
            v = case.values
            if v["engine"] == "pcache" and v["bs"] in published.SIZES and v["iodepth"] == v["numjobs"] == "1":
                value = self._estimate(lambda s: s.metrics["bytes_per_s"] / MIB, case)
                if value:
                    found[v["rw"], v["persist"], v["bs"]] = value.median
        methods = ("clflushopt", "flushcache")
        if not all(("randwrite", m, "4k") in found for m in methods):
            return
        self.page.add("<h3>Beside the published comparison</h3>\n<p>MiB per second with one request at a time, "
                      "clflushopt / flushcache and their ratio. Published: dm-pcache in the kernel, on memory set "
                      "aside as pmem and on Optane. Absolute figures of different machines mean little; the "
                      "ratio tells which method wins where.</p>\n")
        for rw in ("randwrite", "write"):
            rows = []
            for i, size in enumerate(published.SIZES):
                here = [found.get((rw, m, size)) for m in methods]
                row = [size, *(_pair(here) if all(here) else ("", ""))]
                for memory in ("memmap DRAM", "Optane 100"):
                    row += _pair([published.TABLE[memory, rw][m][i] for m in methods])
                rows.append(row)
            self.page.add(f"<h4>{rw}</h4>\n")
            self.page.table(f"{run.name}-published-{rw}",
                            ["size", "here", "ratio", "memmap DRAM", "ratio", "Optane", "ratio"], rows)

    def _table(self):
        run = self.run
        latency = any(_has_latency(run, case) for case in run.cases)
        head = ["case", "n", "requests/s", "interval", "MiB/s", "ratio to bound"]
        head += ["mean µs", "p50 µs", "p99 µs", "p99.9 µs", "max µs"] if latency else []
        rows = []
        for case in run.cases:
            samples = run.of(case)
            if not samples:
                continue
            iops = estimate([_iops(s) for s in samples])
            ratio = self._ratio(case)
            row = [case.id, len(samples), f"{iops.median:,.0f}", spread_text(iops),
                   f"{estimate([s.metrics['bytes_per_s'] for s in samples]).median / MIB:,.1f}",
                   interval_text(ratio)]
            if latency:
                row += [microseconds(estimate([_latency(s, name) for s in samples]).median)
                        if _has_latency(run, case) else "" for name in ("mean", "p50", "p99", "p99.9", "max")]
            rows.append(row)
        self.page.add("<h3>All cases</h3>\n")
        self.page.table(f"{run.name}-cases", head, rows)

    def _machine(self):
        host = self.run.info["host"]
        cpu = host["cpu"]
        backing = host.get("backing") or {}
        rows = [("CPU", f"{cpu['model']}, {cpu['online']} online; {' '.join(cpu['flags'])}"),
                ("frequency governor", cpu.get("governor") or "unknown to this machine"),
                ("last-level cache", cpu.get("l3")),
                ("memory", host["memory"]), ("pmem", host["pmem"]),
                ("huge pages of shared memory", host["transparent_hugepages"]),
                ("backing device", " ".join(str(v) for v in backing.values() if v)),
                ("kernel", host["kernel"]), ("fio", host["fio"]), ("load average at the start", host["load_average"]),
                ("sources", _joined(self.run.sources())), ("build type", _joined(self.run.build_types()))]
        self.page.add("<h3>Machine</h3>\n")
        self.page.table(f"{self.run.name}-machine", ["what", "found"], rows, "facts")


def _joined(by_build):
    """Of one build what it is; of several, of which."""
    if len(set(by_build.values())) == 1:
        return next(iter(by_build.values()))
    return ", ".join(f"{label}: {what}" for label, what in by_build.items())


def _pair(values):
    return f"{values[0]:,.0f} / {values[1]:,.0f}", f"{values[0] / values[1]:.2f}"


def _iops(sample):
    return sample.metrics["iops"]


def _directions(sample):
    return [d for d in (sample.metrics.get("write"), sample.metrics.get("read")) if d and "lat_ns" in d]


def _latency(sample, name):
    """Of the slower direction: a mixed run is as bad as its worse half."""
    return max(d["lat_ns"].get(name, 0) for d in _directions(sample))


def _has_latency(run, case):
    samples = [s for s in run.samples if s.case is case]
    return bool(samples) and all(_directions(s) for s in samples)


def make(runs, folder):
    """Writes the page; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(folder)
    for run in runs:
        if not run.samples:
            raise MeasureError(f"{run.folder}: no measurement has succeeded; there is nothing to draw")
        Section(run, page).add(len(runs) > 1)
    title = ", ".join(run.info["title"] or run.name for run in runs)
    path = folder / "report.html"
    path.write_text(f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
                    f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
                    f"<h1>{escape(title)}</h1>\n{''.join(page.parts)}</body></html>\n", encoding="utf-8")
    return path


def main(arguments):
    parser = Parser("report", __doc__)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    runs = [Run(folder) for folder in options.folders]
    print(make(runs, options.output or options.folders[0] / "report"))
    return 0
