# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a series of figures changes for good: E-divisive (Matteson and James, 2014), as MongoDB and hunter use it.

A series is cut where the energy distance between what is before and what is behind is the largest, if that is
significant; both parts are then treated alike. Significant is, by a permutation test: of the same figures in another
order, fewer than 1 in 200 have a cut with so large a distance. It needs no distribution, and one wild figure is no
change. Logarithms are taken: a change is a ratio.
"""
import dataclasses

import numpy

from .estimates import CONFIDENCE, Estimate

SIGNIFICANT = 0.005
PERMUTATIONS = 1999
LEAST = 3  # figures on each side of a cut
LEAST_CHANGE = 0.01  # of the medians; less is not told
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class ChangePoint:
    at: int  # index of the first figure behind it
    p: float
    ratio: Estimate  # median behind / median before, each up to the next change; n: the smaller number of figures


def change_points(values, least_change=LEAST_CHANGE):
    """In their order. values: above 0."""
    logs = numpy.log(numpy.asarray(values, dtype=float))
    rng = numpy.random.default_rng(1)  # the same series has the same changes
    cuts = dict(sorted(_cuts(logs, 0, rng)))
    ends = [0, *cuts, len(logs)]
    found = [ChangePoint(at, cuts[at], _ratio(logs[before:at], logs[at:behind], rng))
             for before, at, behind in zip(ends, ends[1:], ends[2:])]
    return [one for one in found if not one.ratio.low <= 1 <= one.ratio.high and
            abs(numpy.log(one.ratio.median)) >= numpy.log1p(least_change)]


def _cuts(logs, offset, rng):
    if len(logs) < 2 * LEAST:
        return
    distances = numpy.abs(logs[:, None] - logs[None, :])
    energies = _energies(distances[None])[0]
    at, most = int(energies.argmax()), energies.max()
    p = _p_of_chance(distances, most, rng)
    if p >= SIGNIFICANT:
        return
    yield offset + at + LEAST, p
    yield from _cuts(logs[:at + LEAST], offset, rng)
    yield from _cuts(logs[at + LEAST:], offset + at + LEAST, rng)


def _energies(distances):
    """Of each cut that leaves LEAST figures on both sides: the scaled energy distance. distances: of one or several
    orders of the same figures."""
    n = distances.shape[1]
    before = numpy.arange(LEAST, n - LEAST + 1)
    behind = n - before
    sums = distances.cumsum(axis=1).cumsum(axis=2)
    within = sums[:, before - 1, before - 1]
    across = sums[:, before - 1, -1] - within
    rest = sums[:, -1:, -1] - 2 * across - within
    return before * behind / n * (2 * across / (before * behind) - within / (before * (before - 1)) -
                                  rest / (behind * (behind - 1)))


def _p_of_chance(distances, most, rng):
    """Ends early where it cannot become significant any more."""
    n, batch, done, as_large = len(distances), 100, 0, 0
    if most <= 0:
        return 1.0
    while done < PERMUTATIONS and as_large + 1 < SIGNIFICANT * (PERMUTATIONS + 1):
        orders = numpy.array([rng.permutation(n) for _ in range(min(batch, PERMUTATIONS - done))])
        energies = _energies(distances[orders[:, :, None], orders[:, None, :]])
        as_large += int((energies.max(axis=1) >= most * (1 - 1e-9)).sum())
        done += len(orders)
    return (as_large + 1) / (done + 1)


def _ratio(before, behind, rng):
    """The ratio of the medians, with its bootstrap interval."""
    def medians(of):
        return numpy.median(of[rng.integers(0, len(of), (RESAMPLES, len(of)))], axis=1)
    ratios = numpy.exp(medians(behind) - medians(before))
    low, high = numpy.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    median = float(numpy.exp(numpy.median(behind) - numpy.median(before)))
    return Estimate(min(len(before), len(behind)), median, float(low), float(high))
