# SPDX-License-Identifier: GPL-2.0-or-later
"""What a page says of a run, computed from its samples."""
from ..estimates import estimate, paired_ratios
from ..run_folder import number_of
from . import figures


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

    def label(self, case, without):
        """By the values of the axes, but for those of `without`."""
        parts = [f"{a}={case.values[a]}" for a in self.run.axes if a in case.values and a not in without]
        return ", ".join(parts) or case.id

    def grouped(self, cases):
        """Pairs of a figure's label and {line's label: {x: case}}: by rw where it differs, then as many lines as can
        be told apart. Cases without the axis have no x."""
        grouped = {}
        facets = [a for a in ("rw",) if a in self.run.axes]
        for case in cases:
            if self.axis not in case.values:
                continue
            facet = self.label(case, set(self.run.axes) - set(facets)) if facets else self.run.name
            line = self.label(case, {self.axis, *facets})
            grouped.setdefault(facet, {}).setdefault(line, {})[number_of(self.axis, case.values[self.axis])] = case
        for facet, curves in grouped.items():
            names = list(curves)
            for first in range(0, len(names), figures.MOST_LINES):
                yield facet, {name: curves[name] for name in names[first:first + figures.MOST_LINES]}
