# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of pcache-microbench (Google Benchmark's JSON), and whether one file's benchmarks are slower than another's.

As Google Benchmark's compare.py does: repetitions of the two are compared by the Mann-Whitney U test, wall clock and
CPU time each. Here with an interval of the ratio, and by the rule of judge.py: nothing is called slower by p alone.
"""
import json
import math

import numpy
import scipy.stats

from .errors import MeasureError
from .estimates import CONFIDENCE, RESAMPLES, Estimate, estimate
from .files import read_text
from .judge import LEAST_ROUNDS, Verdict, what_of

METRICS = {"time": "real_time", "CPU time": "cpu_time"}
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
# Of the context, what makes times of two files different for another reason than the build.
SAME_CONTEXT = ("host_name", "num_cpus", "cpu_scaling_enabled", "library_build_type", "persist", "pmem_dir")
RERUN = f"--benchmark_repetitions={LEAST_ROUNDS} --benchmark_enable_random_interleaving=true"


class MicroResults:
    def __init__(self, path):
        self.path = path
        try:
            content = json.loads(read_text(path))
            self.context = dict(content["context"])
            self.times, self.failed = {}, []  # {benchmark: {metric: [ns of each repetition]}}
            for one in content["benchmarks"]:
                self._add(one)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise MeasureError(f"{path}: expected what pcache-microbench --benchmark_out=FILE has written: "
                               f"{type(error).__name__} {error}") from None

    def _add(self, one):
        name = one.get("run_name", one["name"])
        if one.get("error_occurred"):
            self.failed.append(name)
            return
        if one.get("run_type", "iteration") != "iteration":
            return  # a mean of what is there, too
        times = self.times.setdefault(name, {metric: [] for metric in METRICS})
        for metric, key in METRICS.items():
            ns = one[key] * NANOSECONDS[one["time_unit"]]
            if not (math.isfinite(ns) and ns >= 0):
                raise ValueError(f"{name}: {key} {one[key]}")
            times[metric].append(ns)

    def source(self):
        return str(self.context.get("commit", "unknown"))


def differences_of(a, b):
    """Sentences: in what the two differ besides the build."""
    for key in SAME_CONTEXT:
        if a.context.get(key) != b.context.get(key):
            yield f"{key} is {a.context.get(key)} in {a.path}, {b.context.get(key)} in {b.path}"


def compare(a, b, threshold):
    """([(benchmark, Verdict)], {benchmark: why it cannot be told}). Ratios are of the speeds."""
    verdicts, untold = [], {}
    for name in list(dict.fromkeys([*a.times, *b.times, *a.failed, *b.failed])):
        if name in a.failed or name in b.failed:
            untold[name] = "it has failed in one of them"
        elif name not in a.times or name not in b.times:
            untold[name] = f"{(b if name in a.times else a).path} does not have it"
        else:
            found = [judge(a.times[name][metric], b.times[name][metric], metric, threshold) for metric in METRICS]
            verdicts += [(name, one) for one in found if one]
            if not any(found):
                untold[name] = "it takes no time"
    return verdicts, untold


def judge(first, second, metric, threshold):
    """Of unpaired measurements, in ns; None: one side has none above 0."""
    first, second = ([ns for ns in side if ns > 0] for side in (first, second))
    if not first or not second:
        return None
    ratio, n = ratio_of(first, second), min(len(first), len(second))
    p = float(scipy.stats.mannwhitneyu(first, second, alternative="two-sided").pvalue) if n > 1 else None
    what = "cannot tell" if n < LEAST_ROUNDS or p is None else what_of(ratio, p, threshold)
    return Verdict(metric, ratio, p, what)


def ratio_of(first, second):
    """Of the speeds: the first's median time over the second's, with its bootstrap interval."""
    n, rng = min(len(first), len(second)), numpy.random.default_rng(1)
    median = float(numpy.median(first) / numpy.median(second))
    if n == 1:
        return estimate([median])
    medians = [numpy.median(rng.choice(side, (RESAMPLES, len(side))), axis=1) for side in (first, second)]
    low, high = numpy.quantile(medians[0] / medians[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(n, median, float(low), float(high))
