# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare A B [--spec FILE] [--threshold PERCENT] [--rounds N] [--most-rounds N]

A and B are build directories: the cases of the spec (default configs/gate.yaml) are measured with both, in
turn, until it can be told whether they differ by the threshold. Or A is a folder of results that
`pcache-sweep run --build A --build B` has made. Or A and B are folders of results of the same spec; those were
not measured in turn, so what drifted between them counts as a difference.

Given is the speed of the second relative to the first. Exit status: 0 no case is slower, 1 one is,
3 it cannot be told: the noise is larger than the threshold.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from judge import LEAST_ROUNDS, METRICS, judge, line_of
from results import Run, Wrong

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
SLOWER, CANNOT_TELL = 1, 3


def is_build(path):
    return (path / "lib" / "libpcache_fio.so").exists()


def sweep(*arguments):
    """pcache-sweep itself; its progress goes where ours goes."""
    program = os.environ.get("PCACHE_SWEEP")
    if not program:
        raise Wrong("PCACHE_SWEEP is not set: run this as pcache-sweep compare")
    status = subprocess.run([program, *map(str, arguments)], stdout=subprocess.DEVNULL, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise Wrong("a measurement has failed; what it said is above")


def rounds_of(run, case, build):
    return {s.repeat: s.metrics for s in run.of(case, build)}


def verdicts(pairs, threshold):
    """pairs: {case id: (first, second)}, each {round: metrics}."""
    found = []
    for case, (first, second) in pairs.items():
        for metric in METRICS:
            verdict = judge(first, second, metric, threshold)
            if verdict:
                found.append((case, verdict))
    return found


def of_two_builds(run):
    if len(run.builds) != 2:
        raise Wrong(f"{run.folder}: has results of {len(run.builds)} builds, expected two; name another folder, too")
    a, b = run.builds
    return {case.id: (rounds_of(run, case, a), rounds_of(run, case, b)) for case in run.cases
            if case.values["engine"] in ("pcache", "bound")}


def of_two_runs(first, second):
    theirs = {tuple(sorted(case.values.items())): case for case in second.cases}
    pairs = {}
    for case in first.cases:
        other = theirs.get(tuple(sorted(case.values.items())))
        if other:
            pairs[case.id] = (rounds_of(first, case, first.builds[0]), rounds_of(second, other, second.builds[0]))
    if not pairs:
        raise Wrong(f"{first.folder} and {second.folder} have no case in common")
    return pairs


def unclear_of(found):
    """{case: its quietest verdict}, of cases of which neither the requests per second nor the median latency could be
    told. p99 is often too noisy; it is judged where it is not, and asks for no more rounds."""
    quiet = {case for case, v in found if v.what != "cannot tell" and v.metric != "p99"}
    unclear = {}
    for case, v in found:
        if case not in quiet and v.metric != "p99":
            unclear[case] = min(unclear.get(case, v), v, key=lambda v: v.ratio.half_width)
    return unclear


def measure(builds, spec, threshold, rounds, most_rounds, folder):
    """Adds rounds until all is clear, or there are too many."""
    sweep("run", spec, *(f"--build={b}" for b in builds), "--repeats", rounds, "--output", folder)
    while True:
        found = verdicts(of_two_builds(Run(folder)), threshold)
        if not unclear_of(found) or rounds >= most_rounds:
            return found
        rounds = min(most_rounds, rounds * 2)
        sweep("run", "--resume", folder, "--repeats", rounds)


def conclude(found, threshold):
    """Prints it all; the exit status."""
    for case, verdict in found:
        print(line_of(case, verdict))
    slower = [(c, v) for c, v in found if v.what == "slower"]
    unclear = unclear_of(found)
    if slower:
        print(f"compare: SLOWER: {', '.join(sorted({c for c, _ in slower}))}")
        return SLOWER
    if unclear:
        worst = max(v.ratio.half_width for v in unclear.values())
        print(f"compare: cannot tell: the noise is up to {100 * worst:.1f} % of the figure, the threshold "
              f"{100 * threshold:g} %; more rounds or a quieter machine will")
        return CANNOT_TELL
    print(f"compare: no case is slower by {100 * threshold:g} %")
    return 0


def main(arguments):
    parser = argparse.ArgumentParser(prog="pcache-sweep compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=pathlib.Path, metavar="A")
    parser.add_argument("b", type=pathlib.Path, nargs="?", metavar="B")
    parser.add_argument("--spec", type=pathlib.Path, default=SOURCE / "configs" / "gate.yaml")
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
        with tempfile.TemporaryDirectory(prefix="pcache-compare-") as scratch:
            folder = options.output or pathlib.Path(scratch) / "run"
            found = measure((options.a, options.b), options.spec, threshold, options.rounds, options.most_rounds, folder)
    elif options.b:
        print("compare: two results that were not measured in turn: what drifted between them counts as a difference",
              file=sys.stderr)
        found = verdicts(of_two_runs(Run(options.a), Run(options.b)), threshold)
    else:
        found = verdicts(of_two_builds(Run(options.a)), threshold)
    return conclude(found, threshold)
