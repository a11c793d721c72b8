# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether one side is slower than the other, by pairs of measurements of the same rounds. Method: bench/README.md."""
import dataclasses

from .estimates import Estimate, estimate, p_of_no_difference, paired_ratios

# A false alarm must be rare even among many cases, and when rounds are added until it can be told.
SIGNIFICANT = 0.005
LEAST_ROUNDS = 9


@dataclasses.dataclass(frozen=True)
class Metric:
    name: str
    of: object  # of a sample's metrics; None: not measured
    higher_is_better: bool


def _latency(name):
    def of(metrics):
        found = [metrics[d]["lat_ns"].get(name) for d in ("read", "write") if "lat_ns" in metrics.get(d, {})]
        return max(found) if found and all(found) else None
    return of


def latency_metric(name):
    """Of the slower direction, in nanoseconds."""
    return Metric(name, _latency(name), False)


METRICS = (Metric("requests/s", lambda m: m["iops"], True), latency_metric("p50"), latency_metric("p99"))


@dataclasses.dataclass(frozen=True)
class Verdict:
    metric: str
    ratio: Estimate  # of the speeds: 1 alike, below 1 the second is slower
    p: float
    what: str  # "same", "slower", "faster", "cannot tell"


def judge(first, second, metric, threshold):
    """first, second: {round: metrics}. None: this was not measured in any round of both."""
    common = first.keys() & second.keys()
    a, b = ({r: metric.of(side[r]) for r in common} for side in (first, second))
    if not a or not b or None in a.values() or None in b.values():
        return None
    ratios = paired_ratios(b, a) if metric.higher_is_better else paired_ratios(a, b)
    ratio, p = estimate(ratios), p_of_no_difference(ratios)
    if len(ratios) < LEAST_ROUNDS or p is None:
        return Verdict(metric.name, ratio, p, "cannot tell")
    return Verdict(metric.name, ratio, p, what_of(ratio, p, threshold))


def what_of(ratio, p, threshold):
    """ratio: of the speeds, of LEAST_ROUNDS or more; p: that there is no difference."""
    # Clear even where the interval is wide: all of it lies beyond.
    if p < SIGNIFICANT and ratio.high < 1 - threshold / 2 and ratio.median <= 1 - threshold:
        return "slower"
    if p < SIGNIFICANT and ratio.low > 1 + threshold / 2 and ratio.median >= 1 + threshold:
        return "faster"
    # Alike is a finding of its own: the whole interval lies within the threshold, on both sides of 1.
    return "same" if 1 - threshold <= ratio.low and ratio.high <= 1 / (1 - threshold) else "cannot tell"


def figures_text(verdict):
    ratio = verdict.ratio
    p = "" if verdict.p is None else f", p {verdict.p:.2g}"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), n {ratio.n}{p}"


def line_of(case, verdict):
    return f"{case:<48} {verdict.metric:<10}  {figures_text(verdict)}: {verdict.what}"
