# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run, in the order of the page. Each function returns what Page.figure() gives."""
from ..sizes import MIB
from . import figures, names
from .run_values import iops, latency

PERCENTILES = ["p50", "p90", "p95", "p99", "p99.9", "p99.99"]
MOST_SERIES = 12
MOST_LATENCY_FIGURES = 8
PER_SECOND_OF_BOUND = "requests per second / the bound's"


def throughput(values, page):
    run, by_bytes = values.run, values.axis == "bs"
    metric = (lambda s: s.metrics["bytes_per_s"] / MIB) if by_bytes else iops
    unit = "MiB per second" if by_bytes else "requests per second"
    if not values.axis:
        found = {case: values.estimate(metric, case) for case in run.cases}
        return [page.figure(f"{run.name}-throughput", figures.bars(unit, unit, _labelled(run, found)),
                            f"Median {unit} of each case, with its interval.")]
    made = []
    for facet, curves in values.grouped(run.cases):
        drawn = _curves(curves, lambda case: values.estimate(metric, case))
        if drawn:
            made.append(page.figure(f"{run.name}-throughput-{facet}", figures.lines(facet, values.axis, unit, drawn),
                                    f"Median {unit}, {facet}."))
    return made


def ratio_to_bound(values, page):
    """None: no case has a bound."""
    run = values.run
    ratios = {case: values.ratio(case) for case in run.cases}
    if not any(ratios.values()):
        return None
    if not values.axis:
        bars = figures.bars("ratio to the bound", PER_SECOND_OF_BOUND, _labelled(run, ratios), bound=1)
        return [page.figure(f"{run.name}-ratio", bars, "Median ratio to the bound, with its interval.")]
    made = []
    for facet, curves in values.grouped([c for c, v in ratios.items() if v]):
        drawn = _curves(curves, ratios.get)
        made.append(page.figure(f"{run.name}-ratio-{facet}",
                                figures.lines(facet, values.axis, PER_SECOND_OF_BOUND, drawn, bound=1),
                                f"Median ratio to the bound, {facet}."))
    return made


def _labelled(run, found):
    """{label: value}, of the cases that have one."""
    labels = names.labels(run, [case for case, value in found.items() if value])
    return {label: found[case] for case, label in labels.items()}


def _curves(curves, value_of):
    drawn = {}
    for label, points in curves.items():
        found = {x: value_of(case) for x, case in points.items()}
        found = {x: v for x, v in found.items() if v}
        if found:
            drawn[label] = found
    return drawn


def latency_by_percentile(values, page):
    curves = {}
    for case in values.run.cases:
        if not values.has_latency(case):
            continue
        found = {float(name[1:]): values.estimate(lambda s, name=name: latency(s, name), case) for name in PERCENTILES}
        if any(found.values()):
            curves[case] = {percentile: value for percentile, value in found.items() if value}
    made, curves = [], _labelled(values.run, curves)
    labels = list(curves)
    for first in range(0, min(len(labels), MOST_LATENCY_FIGURES * figures.MOST_LINES), figures.MOST_LINES):
        part = labels[first:first + figures.MOST_LINES]
        made.append(page.figure(f"{values.run.name}-latency",
                                figures.percentiles("latency by percentile", {n: curves[n] for n in part}),
                                "Median, over the rounds, of each percentile of the latency of requests, from "
                                "submission to completion."))
    return made


def over_time(values, page):
    """(figures, whether there are more cases than MOST_SERIES)."""
    run, made = values.run, []
    labels = names.labels(run, run.cases)
    for case in run.cases:
        rounds = _series(run, case)
        if not rounds:
            continue
        if len(made) == MOST_SERIES:
            return made, True
        made.append(page.figure(f"{run.name}-time-{case.id}", figures.over_time(labels[case], rounds),
                                f"Requests per second over a run, each round: {labels[case]}."))
    return made, False


def _series(run, case):
    """{round: [(ms, requests per second)]}, of as many rounds as can be told apart."""
    rounds = {}
    for sample in run.samples:
        if sample.case is case and len(rounds) < figures.MOST_LINES:
            points = [(ms, read + write) for ms, read, write in sample.series()]
            if len(points) >= 5:
                rounds[f"round {sample.repeat}"] = points
    return rounds
