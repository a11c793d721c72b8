# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare A B [--spec FILE] [--threshold PERCENT] [--rounds N] [--most-rounds N]

A and B are build directories: the cases of the spec (default: the preset gate) are measured with both, in
turn, until it can be told whether they differ by the threshold. Or A is a folder of results that
`pcache-sweep run --build A --build B` has made. Or A and B are folders of results of the same spec; those were
not measured in turn, so what drifted between them counts as a difference.

Given is the speed of the second relative to the first. Exit status: 0 no case has fewer requests per second, and
no latency that could be told is longer; 1 one has; 2 nothing could be judged; 3 it cannot be told of each case: the
noise is larger than the threshold, or measurements are missing.
"""
import dataclasses
import pathlib
import sys

from . import pcache_sweep
from .command_line import Parser
from .errors import MeasureError
from .judge import LEAST_ROUNDS, METRICS, judge, line_of
from .run_folder import Run
from .scratch import new_folder

SLOWER, CANNOT_TELL = 1, 3
MOST_NAMED = 6


def is_build(path):
    return (path / "lib" / "libpcache_fio.so").exists()


def rounds_of(run, case, build):
    return {s.repeat: s.metrics for s in run.of(case, build)}


@dataclasses.dataclass
class Findings:
    verdicts: list  # of (case id, Verdict)
    untold: dict  # {case id: why nothing can be said of its requests per second}

    @property
    def unclear(self):
        """{case id: verdict} where the requests per second are too noisy; unless something else says slower."""
        slower = {case for case, v in self.verdicts if v.what == "slower"}
        return {case: v for case, v in self.verdicts
                if v.metric == METRICS[0].name and v.what == "cannot tell" and case not in slower}


def findings_of(pairs, threshold):
    """pairs: {case id: (first, second)}, each {round: metrics}."""
    found = Findings([], {})
    for case, (first, second) in pairs.items():
        if not first.keys() & second.keys():
            found.untold[case] = f"no round has both: {len(first)} measurements of one, {len(second)} of the other"
            continue
        verdicts = [v for v in (judge(first, second, metric, threshold) for metric in METRICS) if v]
        found.verdicts += [(case, v) for v in verdicts]
        if METRICS[0].name not in (v.metric for v in verdicts):
            found.untold[case] = "it has no requests per second"
    return found


def of_two_builds(run):
    if len(run.builds) != 2:
        raise MeasureError(f"{run.folder}: has results of {len(run.builds)} builds, expected two; name another "
                           "folder, too")
    a, b = run.builds
    return {case.id: (rounds_of(run, case, a), rounds_of(run, case, b)) for case in run.cases
            if case.is_ours}


def hosts_of(run):
    return f"the hosts {', '.join(run.hosts)}" if run.hosts else "one machine"


def of_two_runs(first, second):
    for run in (first, second):
        if len(run.builds) != 1:
            raise MeasureError(f"{run.folder}: has results of {len(run.builds)} builds, expected one; compare it by "
                               "itself")
    if sorted(first.hosts) != sorted(second.hosts):
        raise MeasureError(f"{second.folder}: is of {hosts_of(second)}, {first.folder} of {hosts_of(first)}; expected "
                           "results of the same machines")

    def by_values(run):
        return {tuple(sorted(case.values.items())): case for case in run.cases}
    ours, theirs = by_values(first), by_values(second)
    if not ours.keys() & theirs.keys():
        raise MeasureError(f"{first.folder} and {second.folder} have no case in common; expected results of the "
                           "same spec")
    pairs = {case.id: (rounds_of(first, case, first.builds[0]),
                       rounds_of(second, theirs[values], second.builds[0]) if values in theirs else {})
             for values, case in ours.items()}
    # By all its values: its id is of the other spec, and may be that of another case here.
    return pairs | {f"{case.id} of {second.folder}": ({}, rounds_of(second, case, second.builds[0]))
                    for values, case in theirs.items() if values not in ours}


def measure(builds, options, threshold, folder):
    """Adds rounds until all is clear, or there are too many."""
    rounds, most_rounds = options.rounds, options.most_rounds
    keep = [] if options.output else ["--temporary"]
    pcache_sweep.run(options.spec, *(f"--build={b}" for b in builds), "--repeats", rounds, "--output", folder, *keep)
    while True:
        found = findings_of(of_two_builds(Run(folder)), threshold)
        if not found.unclear or rounds >= most_rounds:
            return found
        rounds = min(most_rounds, rounds * 2)
        pcache_sweep.run("--resume", folder, "--repeats", rounds, *keep)


def names_of(cases):
    cases = sorted(set(cases))
    return ", ".join(cases[:MOST_NAMED]) + (f" and {len(cases) - MOST_NAMED} more" if len(cases) > MOST_NAMED else "")


def why_not(found, threshold):
    """Of what cannot be told, what stands in the way."""
    few = [case for case, v in found.unclear.items() if v.ratio.n < LEAST_ROUNDS]
    noisy = {case: v for case, v in found.unclear.items() if case not in few}
    if noisy:
        worst = max(v.ratio.half_width for v in noisy.values())
        yield (f"the noise is up to {100 * worst:.1f} % of the figure, the threshold {100 * threshold:g} %, in "
               f"{names_of(noisy)}: more rounds or a quieter machine will")
    if few:
        yield f"fewer than {LEAST_ROUNDS} rounds have both in {names_of(few)}"
    if found.untold:
        yield f"nothing to compare in {names_of(found.untold)}"


def sources_of(runs):
    """What is compared, as the builds themselves say it."""
    first, second = [source for run in runs for source in run.sources().values()]
    return f"compare: first {first}, second {second}"


def conclude(found, threshold):
    """Prints it all; the exit status."""
    for case, why in found.untold.items():
        print(f"{case:<48} {why}: cannot tell")
    for case, verdict in found.verdicts:
        print(line_of(case, verdict))
    if not found.verdicts:
        raise MeasureError("compare: nothing was measured that could be compared; expected measurements of the cache "
                           "or the bound by both sides, in the same rounds")
    slower = [case for case, v in found.verdicts if v.what == "slower"]
    if slower:
        print(f"compare: SLOWER: {', '.join(sorted(set(slower)))}")
        return SLOWER
    if found.unclear or found.untold:
        print(f"compare: cannot tell: {'; '.join(why_not(found, threshold))}")
        return CANNOT_TELL
    untold = [f"{v.metric} of {case}" for case, v in found.verdicts if v.what == "cannot tell"]
    print(f"compare: no case is slower by {100 * threshold:g} %" +
          (f"; but for what is too noisy to tell: {names_of(untold)}" if untold else ""))
    return 0


def main(arguments):
    parser = Parser("compare", __doc__)
    parser.add_argument("a", type=pathlib.Path, metavar="A")
    parser.add_argument("b", type=pathlib.Path, nargs="?", metavar="B")
    parser.add_argument("--spec", default="gate", help="a preset or a file")
    parser.add_argument("--threshold", type=float, default=5, metavar="PERCENT")
    parser.add_argument("--rounds", type=int, default=12, help="at first")
    parser.add_argument("--most-rounds", type=int, default=96)
    parser.add_argument("--output", type=pathlib.Path, help="keeps the results there")
    options = parser.parse_args(arguments)
    if not 0 < options.threshold < 100:
        parser.error(f"--threshold {options.threshold:g}: expected a percentage")
    if options.rounds < LEAST_ROUNDS or options.most_rounds < options.rounds:
        parser.error(f"--rounds {options.rounds}: expected {LEAST_ROUNDS} or more, and no more than --most-rounds")
    threshold = options.threshold / 100
    if options.b and is_build(options.a) and is_build(options.b):
        with new_folder("pcache-compare-") as scratch:
            folder = options.output or scratch / "run"
            found = measure((options.a, options.b), options, threshold, folder)
            print(sources_of([Run(folder)]))
    elif options.b:
        runs = Run(options.a), Run(options.b)
        found = findings_of(of_two_runs(*runs), threshold)
        print(sources_of(runs))
        print("compare: two results that were not measured in turn: what drifted between them counts as a difference",
              file=sys.stderr)
    else:
        run = Run(options.a)
        found = findings_of(of_two_builds(run), threshold)
        print(sources_of([run]))
    return conclude(found, threshold)
