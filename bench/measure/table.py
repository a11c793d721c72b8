# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep table FOLDER --of PARAMETER [A B] [--metric METRIC] [--threshold PERCENT]
                   [--format text|markdown|csv] [--output FILE]

B against A, two values of one parameter, all else alike: one row for each case, with both medians and the
ratio B / A of the measurements of the same rounds, its interval, n, and whether that is a difference (as compare
tells it; of latencies, too, above 1 is more of it). PARAMETER is one of the sweep's, or `build`; A and B may be left
out where it has two values. METRIC: requests/s (default), MiB/s, mean, p50, p90, p95, p99, p99.9, p99.99, max.

    pcache-sweep table FOLDER --of data_crc 0 1
    pcache-sweep table FOLDER --of engine bound pcache --format markdown
    pcache-sweep table FOLDER --of persist clwb flushcache --metric p99 --format csv
"""
import csv
import io
import pathlib
import sys

from .command_line import Parser
from .doubts import Doubts, say
from .errors import MeasureError
from .estimates import estimate, paired_ratios
from .files import write_whole
from .judge import LEAST_ROUNDS, Metric, judge, latency_metric
from .run_folder import Run, number_of
from .sizes import MIB
from .text_table import as_markdown, as_text

LATENCIES = ("mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max")
METRICS = {"requests/s": Metric("requests/s", lambda m: m["iops"], True),
           "MiB/s": Metric("MiB/s", lambda m: m["bytes_per_s"] / MIB, True),
           **{name: latency_metric(name) for name in LATENCIES}}


def values_of(run, parameter):
    """Of the cases, in the order of the spec."""
    return list(dict.fromkeys(case.values[parameter] for case in run.cases if parameter in case.values))


def normal(given, parameter, known, folder):
    """As the run writes it: 4096 for 4k."""
    if given in known:
        return given
    number = number_of(parameter, given)
    alike = [value for value in known if number is not None and number_of(parameter, value) == number]
    if not alike:
        raise MeasureError(f"{folder}: {parameter} is never {given}; there are {', '.join(known)}")
    return alike[0]


def pairs_of(run, parameter, a, b):
    """[(case with A, case with B)]: alike in all that both have. Engines look at different parameters."""
    found = []
    for first in run.cases:
        if first.values.get(parameter) != a:
            continue
        for second in run.cases:
            if second.values.get(parameter) == b and all(
                    second.values[key] == value for key, value in first.values.items()
                    if key != parameter and key in second.values):
                found.append((first, second))
    return found


def label_of(run, first, second, parameter):
    """By the axes that both have, and, of those that one has alone, whose they are."""
    parts = []
    for axis in run.axes:
        if axis == parameter:
            continue
        if axis in first.values and axis in second.values:
            parts.append(f"{axis}={first.values[axis]}")
        else:
            parts += [f"{axis}={case.values[axis]} of {case.values[parameter]}" for case in (first, second)
                      if axis in case.values]
    return " ".join(parts) or "the only case"


def row_of(run, pair, parameter, metric, threshold):
    """The cells; None: no round has both."""
    sides = [{s.repeat: s.metrics for s in run.samples if s.case is case} for case in pair]
    values = [{r: metric.of(m) for r, m in side.items() if metric.of(m) is not None} for side in sides]
    ratios = paired_ratios(values[1], values[0])
    if not ratios:
        return None
    ratio, (a, b) = estimate(ratios), (estimate([side[r] for r in sorted(side)]) for side in values)
    common = values[0].keys() & values[1].keys()
    verdict = judge(*({r: m for r, m in side.items() if r in common} for side in sides), metric, threshold)
    return {"case": label_of(run, *pair, parameter), "a": a.median, "b": b.median, "ratio": ratio.median,
            "low": ratio.low, "high": ratio.high, "n": ratio.n, "p": verdict.p,
            "verdict": what_of(verdict)}


def what_of(verdict):
    if verdict.ratio.n < LEAST_ROUNDS:
        return f"cannot tell: {verdict.ratio.n} of {LEAST_ROUNDS} rounds"
    return verdict.what


def number_text(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def cells(rows, names, metric):
    """For people."""
    unit = " (ns)" if metric.name in LATENCIES else ""
    head = ["case", f"{metric.name}{unit} of {names[0]}", f"of {names[1]}", f"{names[1]} / {names[0]}", "interval",
            "n", "p", f"{names[1]} is"]
    return head, [[row["case"], number_text(row["a"]), number_text(row["b"]), f"{row['ratio']:.3f}",
                   f"{row['low']:.3f} to {row['high']:.3f}" if row["n"] > 1 else "", str(row["n"]),
                   "" if row["p"] is None else f"{row['p']:.2g}", row["verdict"]] for row in rows]


def as_csv(rows, names, parameter, metric):
    """For programs: numbers as they are."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case", "parameter", "a", "b", "metric", "median_a", "median_b", "ratio", "low", "high", "n", "p",
                     "verdict"])
    for row in rows:
        writer.writerow([row["case"], parameter, *names, metric.name, f"{row['a']:.6g}", f"{row['b']:.6g}",
                         *(f"{row[key]:.6g}" for key in ("ratio", "low", "high")), row["n"],
                         "" if row["p"] is None else f"{row['p']:.3g}", row["verdict"]])
    return out.getvalue()


def parse(arguments):
    parser = Parser("table", __doc__)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--of", nargs="+", required=True, metavar=("PARAMETER", "A B"))
    parser.add_argument("--metric", default="requests/s")
    parser.add_argument("--threshold", type=float, default=5, metavar="PERCENT")
    parser.add_argument("--format", choices=("text", "markdown", "csv"), default="text")
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="instead of standard output")
    options = parser.parse_args(arguments)
    if len(options.of) not in (1, 3):
        parser.error(f"--of {' '.join(options.of)}: expected a parameter, or one and two of its values")
    if options.metric not in METRICS:
        parser.error(f"--metric {options.metric}: expected {', '.join(METRICS)}")
    if not 0 < options.threshold < 100:
        parser.error(f"--threshold {options.threshold:g}: expected a percentage")
    return options


def two_values(run, parameter, given):
    known = values_of(run, parameter)
    if not known:
        raise MeasureError(f"{run.folder}: has no parameter {parameter}; its cases differ in "
                           f"{', '.join(run.axes) or 'nothing'}")
    if not given and len(known) != 2:
        raise MeasureError(f"{run.folder}: {parameter} has {len(known)} values ({', '.join(known)}); name two: "
                           f"--of {parameter} A B")
    names = [normal(one, parameter, known, run.folder) for one in given] or known
    if names[0] == names[1]:
        raise MeasureError(f"--of {parameter} {' '.join(given)}: expected two values that differ")
    return names


def main(arguments):
    options = parse(arguments)
    run = Run(options.folder).by_build()
    parameter, metric = options.of[0], METRICS[options.metric]
    names = two_values(run, parameter, options.of[1:])
    pairs = pairs_of(run, parameter, *names)
    if not pairs:
        raise MeasureError(f"{run.folder}: no two cases differ in {parameter} alone, {names[0]} and {names[1]}")
    rows = [row_of(run, pair, parameter, metric, options.threshold / 100) for pair in pairs]
    if not any(rows):
        raise MeasureError(f"{run.folder}: no round has {metric.name} of both {names[0]} and {names[1]}")
    missing = [label_of(run, *pair, parameter) for pair, row in zip(pairs, rows) if row is None]
    rows = [row for row in rows if row]
    say("table", [f"left out, no round has {metric.name} of both: {', '.join(missing)}"] if missing else [])
    say("table", Doubts.of(run, None).notes())
    text = (as_csv(rows, names, parameter, metric) if options.format == "csv" else
            (as_markdown if options.format == "markdown" else as_text)(*cells(rows, names, metric)))
    if options.output:
        write_whole(options.output, text)
    else:
        sys.stdout.write(text)
    return 0
