# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer of a run: one sentence, and what its figure draws. The first rule that fits the run gives it:

traces       the mean miss ratio, beside the computed ones
two builds   the second against the first
a bound      what part of it pcache reaches
engines      pcache against the first other one, as the disk
a parameter  the best of its values against the next, and against the worst
else         the least and the most

What stands for several cases is of the rounds that have all of them. That one side is better, or alike, is said only
where compare would say so: of LEAST_ROUNDS rounds or more, by its test. Of fewer the figures are given, and that they
are too few."""
import dataclasses

import numpy
from scipy.stats import gmean

from ..estimates import estimate, estimate_of_all, p_of_no_difference
from ..judge import LEAST_ROUNDS, what_of
from ..sizes import MIB
from ..table import pairs_of
from . import names
from .figures import si
from .run_values import iops

THRESHOLD = 0.05  # compare's, where nothing else is asked for
RATE = "requests per second"


@dataclasses.dataclass(frozen=True)
class Answer:
    sentence: str
    unit: str  # of the figure's axis
    series: dict  # {case: {round: value}}, in the order of the file
    mean: object = gmean  # of several cases, if they are too many to draw
    without: tuple = ()  # parameters that no label has
    one: str = ""  # what 1 is; "": values are no ratios
    beside: tuple = ()  # (what it is, {case: value})


def answer_of(values):
    rules = (_traces, _two_builds, _beside_bound, _engines, _one_parameter, _range)
    return next(answer for rule in rules if (answer := rule(values)))


def _traces(values):
    series = {}
    for case in values.run.cases:
        found = {s.repeat: 1 - s.metrics["replay"]["hit_ratio"] for s in values.run.of(case)
                 if "hit_ratio" in s.metrics.get("replay", {})}
        if found and case.trace is not None:
            series[case] = found
    if not series:
        return None
    builds = names.values_of(series, "build") or [None]
    parts = [_misses(values, {c: s for c, s in series.items() if c.values.get("build") == build}, build)
             for build in builds]
    lru = {c: 1 - m["lru"] for c in series if (m := _model(values, c)).keys() >= {"lru"}}
    return Answer(_capital("; ".join(parts)) + ".", "miss ratio, of all accesses", series, numpy.mean,
                  beside=("LRU, computed", lru) if len(lru) == len(series) else ())


def _model(values, case):
    return values.run.of(case)[0].metrics["replay"].get("model", {})


def _misses(values, series, build):
    whole, of_case = over(series, numpy.mean), _medians(series)
    what = f"{ratio_text(whole.median)} of all accesses ({_bounds(whole)})" if whole else \
        "what no round tells of all traces"
    text = f"{f'build {build}' if build else 'The cache'} misses {what}{_mean_of(series, 'mean')}"
    if len(series) > 1:
        text += f", {_from_to(values, of_case)}"
    models = [_model(values, case) for case in series]
    computed = [f"{name} {ratio_text(numpy.mean([1 - m[policy] for m in models]))}"
                for policy, name in (("lru", "LRU"), ("fifo", "FIFO")) if all(policy in m for m in models)]
    return text + (f"; computed for the same requests, {' and '.join(computed)}" if computed else "")


def _two_builds(values):
    builds = names.values_of(values.run.cases, "build")
    if len(builds) != 2:
        return None
    sources = values.run.sources()
    pairs = pairs_of(values.run, "build", *builds)
    ours = [pair for pair in pairs if pair[0].values["engine"] == "pcache"]
    known = {build: f" ({source})" for build, source in sources.items() if not source.startswith("unknown")}
    return _second_against_first(values, ours or pairs, "build",
                                 [f"build {build}{known.get(build, '')}" for build in builds],
                                 *(f"build {build}" for build in builds))


def _engines(values):
    others = [e for e in names.values_of(values.run.cases, "engine") if e not in ("pcache", "bound")]
    pairs = pairs_of(values.run, "engine", others[0], "pcache") if others else []
    sides = [others[0], "pcache"] if others else []
    return _second_against_first(values, pairs, "engine", sides, *sides) if pairs else None


def _second_against_first(values, pairs, parameter, sides, one, second):
    """Of two values of a parameter; each pair of cases is alike but for that. one, second: they, in short."""
    series = {pair[1]: _paired(values, *pair) for pair in pairs}
    series = {case: found for case, found in series.items() if found}
    if not series:
        return None
    sentence = _compared(values, series, sides) + _on_hosts(values) + "."
    if len(series) > 1:
        return Answer(sentence, f"{RATE}: {second} / {one}", series, without=(parameter,), one=one)
    (pair,) = (pair for pair in pairs if pair[1] in series)
    return Answer(sentence, RATE, {case: values.of_rounds(iops, case) for case in sorted(pair, key=lambda c: c.index)})


def _paired(values, below, above, metric=iops):
    """{round: above / below}."""
    a, b = (values.of_rounds(metric, case) for case in (above, below))
    return {r: a[r] / b[r] for r in sorted(a.keys() & b.keys()) if b[r]}


def _compared(values, series, sides):
    first, second = sides
    labels, whole = names.labels(values.run, list(series)), over(series, gmean)
    told = {case: _verdict(list(found.values())) for case, found in series.items()}
    faster, slower = ([case for case, what in told.items() if what == wanted] for wanted in ("faster", "slower"))
    spread = f", {_from_to(values, _medians(series))}" if len(series) > 1 else ""
    what = "cannot tell" if whole is None else _verdict(gmean(_of_common_rounds(series), axis=0), whole)
    if faster and slower or faster and what == "slower" or slower and what == "faster":
        return (f"It depends on the case whether {second} is faster than {first}: it is in {len(faster)} and slower in "
                f"{len(slower)} of {len(series)} cases{spread}")
    if whole is None:
        return f"It cannot be told which of {first} and {second} is faster: no round has all cases of both{spread}"
    times, rest = f"{_interval(whole)} times the {RATE}", _mean_of(series, "geometric mean") + spread
    if what in ("faster", "slower"):
        return f"{_capital(second)} is {what} than {first}: {times}{rest}"
    if some := faster or slower:
        named = "" if len(some) > 1 else f" ({labels[some[0]]})"
        return (f"{_capital(second)} is {told[some[0]]} than {first} in {len(some)} of {len(series)} cases{named}; all "
                f"together it makes {times}{rest}")
    if what == "same":
        return f"{_capital(second)} is as fast as {first}, to within {THRESHOLD:.0%}: {times}{rest}"
    if few := _too_few(whole):
        return f"{_capital(second)} made {times} of {first}{rest}; {few}"
    return f"It cannot be told whether {second} is faster than {first}: {times}{rest}"


def _too_few(ratio):
    """What is said of a range on one side of 1, of so few rounds that it lies there by chance often enough; "": it is
    no such one."""
    if ratio.n >= LEAST_ROUNDS or ratio.low <= 1 <= ratio.high and ratio.n > 1:
        return ""
    return f"{ratio.n} round{' is' if ratio.n == 1 else 's are'} too few for a verdict, which takes {LEAST_ROUNDS}"


def _verdict(ratios, said=None):
    """Of the rounds: faster, slower, same or cannot tell, as compare says it. said: the estimate that is shown, if it
    is another than the rounds' own."""
    p = p_of_no_difference(ratios)
    return "cannot tell" if len(ratios) < LEAST_ROUNDS or p is None else what_of(said or estimate(ratios), p, THRESHOLD)


def _beside_bound(values):
    series = {case: found for case in values.run.cases
              if (bound := values.run.bound_of(case)) and (found := _paired(values, bound, case))}
    if not series:
        return None
    fences = {values.run.bound_of(case).values.get("fence") for case in series}
    several = len({c.values.get("fence") for c in values.run.cases if c.values["engine"] == "bound"}) > 1
    bound = "the bound that fences each store" if several and fences == {"each"} else "the bound"
    whole = over(series, numpy.median)
    text = f"pcache reaches {_interval(whole)} of {bound}" if whole else \
        f"What part of {bound} pcache reaches cannot be told of all cases: no round has all"
    if len(series) > 1:
        text += f"{_mean_of(series, 'median')}, {_from_to(values, _medians(series))}"
    return Answer(f"{text}{_on_hosts(values)}.", f"{RATE} / the bound's", series, one=bound)


def _one_parameter(values):
    axes = [axis for axis in names.varied(values.run, values.run.cases) if axis not in names.NO_QUESTION]
    if len(axes) != 1:
        return None
    (axis,) = axes
    metric, unit = (_mib, "MiB per second") if axis == "bs" else (iops, RATE)
    series = {case: found for case in values.run.cases
              if axis in case.values and (found := values.of_rounds(metric, case))}
    if len(series) < 2:
        return None
    found = _medians(series)
    ordered = sorted(series, key=lambda case: -found[case].median)
    sentence = _best(values, axis, ordered, metric, unit) + _on_hosts(values) + "."
    return Answer(sentence, unit, series)


def _mib(sample):
    return sample.metrics["bytes_per_s"] / MIB


def _best(values, axis, ordered, metric, unit):
    """ordered: the cases, the fastest first."""
    name = names.PARAMETERS.get(axis, axis)
    best, following, worst = (names.words(axis, ordered[at].values[axis]) for at in (0, 1, -1))
    next_ratios, worst_ratios = (list(_paired(values, ordered[at], ordered[0], metric).values()) for at in (1, -1))
    if not next_ratios or not worst_ratios:
        return f"It cannot be told which {name} is the fastest: no round has both {best} and {following}"
    to_next, to_worst = estimate(next_ratios), estimate(worst_ratios)
    next_text = f"{_interval(to_next)} times the {unit} of {following}"
    worst_text = f"{_interval(to_worst)} times those of {worst}, the lowest"
    is_of_two = len(ordered) == 2
    if _verdict(next_ratios) == "faster":
        more = "" if is_of_two else f", the next, and {worst_text}"
        return f"{_capital(best)} is the fastest {name}, with {next_text}{more}"
    if not is_of_two and _verdict(worst_ratios) == "faster":
        return (f"Which {name} is the fastest cannot be told, but {worst} is slower: {best} has {next_text}, the next, "
                f"and {worst_text}")
    more = "" if is_of_two else f", the next, and {worst_text}"
    if few := _too_few(to_worst):
        return f"Highest is {best}, with {next_text}{more}; {few}"
    return (f"No difference between the {len(ordered)} values of {name} can be told: {best}, the highest, has "
            f"{next_text}{more}")


def _range(values):
    series = {case: found for case in values.run.cases if (found := values.of_rounds(iops, case))}
    found = _medians(series)
    labels = names.labels(values.run, list(series))
    least, most = (choose(found, key=lambda case: found[case].median) for choose in (min, max))
    if len(series) == 1:
        text = f"{si(found[least].median)} {RATE} ({_bounds(found[least], si)})"
    else:
        text = (f"From {si(found[least].median)} ({labels[least]}; {_bounds(found[least], si)}) to "
                f"{si(found[most].median)} {RATE} ({labels[most]}; {_bounds(found[most], si)}): the medians of "
                f"{len(series)} cases")
    return Answer(f"{text}{_on_hosts(values)}.", RATE, series)


def over(series, mean):
    """Of all cases; None: no round has all of them."""
    return estimate_of_all(_of_common_rounds(series), mean)


def _of_common_rounds(series):
    common = sorted(set.intersection(*map(set, series.values())))
    return [[of[r] for r in common] for of in series.values()]


def _medians(series):
    return {case: estimate(list(of.values())) for case, of in series.items()}


def _from_to(values, found):
    """The least and the greatest of the cases' medians, and whose they are."""
    labels = names.labels(values.run, list(found))
    ends = [choose(found, key=lambda case: found[case].median) for choose in (min, max)]
    return "from " + " to ".join(f"{ratio_text(found[case].median)} ({labels[case]})" for case in ends)


def _mean_of(series, what):
    return f", {what} of {len(series)} cases" if len(series) > 1 else ""


def _interval(value):
    return f"{ratio_text(value.median)} ({_bounds(value)})"


def _bounds(value, text=None):
    """Of one measurement there is no interval."""
    text = text or ratio_text
    return f"{text(value.low)} to {text(value.high)}, n {value.n}" if value.n > 1 else "n 1: no interval"


def ratio_text(value):
    return f"{value:.2f}" if value >= 0.1 else f"{value:#.2g}"


def _on_hosts(values):
    return f"; the sum of {len(values.run.hosts)} hosts" if values.run.hosts else ""


def _capital(text):
    """pcache stays what it is called."""
    return text[0].upper() + text[1:] if text.startswith("build ") else text
