# SPDX-License-Identifier: GPL-2.0-or-later
"""Medians, their intervals, and whether two sets of measurements differ. Method: bench/README.md."""
import dataclasses

import numpy
import scipy.stats

LEAST_FOR_INTERVAL = 5  # below, the range is given
CONFIDENCE = 0.95
RESAMPLES = 5000
MOST_FOR_EXACT = 25  # above, the normal approximation is as good


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A median, and where it lies: 95 % bootstrap, or the range when n < 5."""
    n: int
    median: float
    low: float
    high: float

    @property
    def half_width(self):
        """Of the interval, relative to the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def estimate(values):
    values = numpy.asarray(values, dtype=float)
    if len(values) == 0:
        return None
    median = float(numpy.median(values))
    if len(values) < LEAST_FOR_INTERVAL or values.min() == values.max():
        return Estimate(len(values), median, float(values.min()), float(values.max()))
    found = scipy.stats.bootstrap((values,), numpy.median, n_resamples=RESAMPLES, confidence_level=CONFIDENCE,
                                  method="percentile", random_state=1)
    return Estimate(len(values), median, float(found.confidence_interval.low), float(found.confidence_interval.high))


def estimate_of_all(rows, mean):
    """What stands for several: the mean of their medians. rows: of each its values, of the same rounds, which are drawn
    together. mean: a function of an array, along its first axis. None: there is no round."""
    rows = numpy.asarray(rows, dtype=float)
    rounds = rows.shape[1]
    if not rounds:
        return None
    found, of_rounds = float(mean(numpy.median(rows, axis=1), axis=0)), mean(rows, axis=0)
    if rounds < LEAST_FOR_INTERVAL or (rows == rows[:, :1]).all():
        return Estimate(rounds, found, min(found, float(of_rounds.min())), max(found, float(of_rounds.max())))
    drawn = numpy.random.default_rng(1).integers(rounds, size=(RESAMPLES, rounds))
    means = mean(numpy.array([numpy.median(row[drawn], axis=1) for row in rows]), axis=0)
    low, high = numpy.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(rounds, found, float(low), float(high))


def paired_ratios(above, below):
    """above / below of the same rounds: {round: value} each."""
    return [above[r] / below[r] for r in sorted(above.keys() & below.keys()) if below[r]]


def _exact_p(logs):
    """Of the signed-rank test: all 2^n ways to give signs to the ranks are counted. Ties share ranks; what is 0 has a
    rank and no sign."""
    ranks = numpy.round(2 * scipy.stats.rankdata(numpy.abs(logs))).astype(int)  # twice: shared ones end in a half
    positive = int(ranks[logs > 0].sum())
    ranks = ranks[logs != 0]
    ways = numpy.zeros(ranks.sum() + 1)
    ways[0] = 1
    for rank in ranks:
        ways[rank:] += ways[:-rank].copy()
    rarer = min(positive, int(ranks.sum()) - positive)
    return min(1.0, 2 * float(ways[:rarer + 1].sum() / ways.sum()))


def p_of_no_difference(ratios):
    """Wilcoxon's signed-rank test of the logarithms of paired ratios: that their median is 1. Small when one side
    wins nearly always; nothing when there are too few for any outcome to be small."""
    if len(ratios) < 6:
        return None
    logs = numpy.log(ratios)
    if not logs.any():
        return 1.0
    if len(logs) <= MOST_FOR_EXACT:  # of 9 or 10 the approximation is never below 0.005
        return _exact_p(logs)
    return float(scipy.stats.wilcoxon(logs, zero_method="zsplit", method="approx").pvalue)
