# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page says of a run, computed from its samples."""
from ..estimates import estimate, paired_ratios
from ..run_folder import number_of
from . import figures, names


def iops(sample):
    return sample.metrics["iops"]


def _directions(sample):
    return [d for d in (sample.metrics.get("write"), sample.metrics.get("read")) if d and "lat_ns" in d]


def latency(sample, name):
    """Of the slower direction: a mixed run is as bad as its worse half."""
    return max(d["lat_ns"].get(name, 0) for d in _directions(sample))


class RunValues:
    """A run whose builds, if there are several, are cases of their own."""

    def __init__(self, run):
        self.run = run.by_build()
        self.axis = figures.x_axis(self.run)  # to draw along; None: the cases are bars

    def of_rounds(self, metric, case):
        return {s.repeat: metric(s) for s in self.run.samples if s.case is case}

    def estimate(self, metric, case):
        return estimate(list(self.of_rounds(metric, case).values()))

    def ratio(self, case):
        """To its bound, of the same rounds; None: it has none."""
        bound = self.run.bound_of(case)
        return estimate(paired_ratios(self.of_rounds(iops, case), self.of_rounds(iops, bound))) if bound else None

    def has_latency(self, case):
        samples = [s for s in self.run.samples if s.case is case]
        return bool(samples) and all(_directions(s) for s in samples)

    def lines(self, cases, without=()):
        """{label: {x: case}}. Cases without the axis have no x."""
        first, lines = {}, {}
        for case in cases:
            if self.axis not in case.values:
                continue
            line = tuple((a, case.values.get(a)) for a in self.run.axes if a != self.axis)
            first.setdefault(line, case)
            lines.setdefault(line, {})[number_of(self.axis, case.values[self.axis])] = case
        labels = names.labels(self.run, list(first.values()), (self.axis, *without))
        return {labels[case]: lines[line] for line, case in first.items()}

    def grouped(self, cases):
        """Pairs of a figure's label and its lines: by rw where it differs, then as many lines as can be told apart."""
        for rw in names.values_of(cases, "rw") if "rw" in self.run.axes else [None]:
            facet = self.run.name if rw is None else names.words("rw", rw)
            lines = self.lines([case for case in cases if rw is None or case.values.get("rw") == rw])
            labels = list(lines)
            for first in range(0, len(labels), figures.MOST_LINES):
                yield facet, {label: lines[label] for label in labels[first:first + figures.MOST_LINES]}
