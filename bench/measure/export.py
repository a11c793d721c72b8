# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep export PATH... --format github-bigger|github-smaller|bencher [--output FILE]

Results for services that keep and draw them. PATH is a folder of `pcache-sweep run`, or what `gate --json` has
written. github-bigger and github-smaller are for github-action-benchmark, which takes one direction a file: its tools
customBiggerIsBetter (requests/s, ratio to the bound) and customSmallerIsBetter (latencies, counts). bencher is the
Bencher Metric Format, for `bencher run --adapter json`: the interval becomes lower_value and upper_value.
"""
import json
import pathlib
import sys

from .command_line import Parser
from .doubts import say
from .errors import MeasureError
from .files import write_whole
from .history_file import BETTER_IS_MORE, COUNTED, RATIO, entries_of

UNITS = {"requests/s": "requests/s", RATIO: "x", "p50": "ns", "p99": "ns", **dict.fromkeys(COUNTED, "a request")}
# As Bencher's own measures are called, where there is one; a measure is made where it is not there.
MEASURES = {"requests/s": "throughput", RATIO: "ratio-to-the-bound", "p50": "latency-p50", "p99": "latency-p99",
            **{what: what.replace("_", "-") for what in COUNTED}}


def figures_of(entries):
    """{(sweep's name, case): {metric: figure}}; MeasureError: two say something of the same."""
    found = {}
    for entry in entries:
        for metric, cases in entry.figures.items():
            for case, figure in cases.items():
                of = found.setdefault((entry.name, case), {})
                if metric in of:
                    raise MeasureError(f"export: {metric} of {case} ({entry.name}) is there twice, of {entry.commit}, "
                                       "too; export one build's results at a time")
                of[metric] = figure
    return found


def for_github(found, bigger):
    """One of the two directions."""
    return [{"name": f"{name}: {case}: {metric}", "unit": UNITS[metric], "value": figure["median"],
             "range": f"± {(figure['high'] - figure['low']) / 2:.4g}",
             "extra": f"{figure['low']:.6g} to {figure['high']:.6g}, n {figure['n']}"}
            for (name, case), metrics in found.items() for metric, figure in metrics.items()
            if BETTER_IS_MORE[metric] == bigger]


def for_bencher(found):
    return {f"{name}: {case}": {MEASURES[metric]: {"value": figure["median"], "lower_value": figure["low"],
                                                   "upper_value": figure["high"]}
                                for metric, figure in metrics.items()} for (name, case), metrics in found.items()}


FORMATS = {"github-bigger": lambda found: for_github(found, True),
           "github-smaller": lambda found: for_github(found, False), "bencher": for_bencher}


def main(arguments):
    parser = Parser("export", __doc__)
    parser.add_argument("paths", nargs="+", type=pathlib.Path, metavar="PATH")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="instead of standard output")
    options = parser.parse_args(arguments)
    entries = [entry for path in options.paths for entry in entries_of(path)]
    content = FORMATS[options.format](figures_of(entries))
    if not content:
        raise MeasureError(f"export: {', '.join(map(str, options.paths))}: nothing is there for {options.format}")
    say("export", [f"{entry.commit}, {entry.name}: {entry.doubt}" for entry in entries if entry.doubt])
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if options.output:
        write_whole(options.output, text)
    else:
        sys.stdout.write(text)
    return 0
