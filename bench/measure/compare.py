# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare A B [--spec FILE] [--threshold PERCENT] [--rounds N] [--most-rounds N]
                     [--strict] [--json FILE] [--junit FILE] [--markdown FILE] [--output FOLDER]
pcache-sweep compare A B --hits [--threshold PERCENT] [--rounds N] [--most-rounds N] [--json FILE] ...

A and B are build directories: the cases of the spec (default: the preset gate) are measured with both, in
turn, until it can be told whether they differ by the threshold. With --hits these are 4 KiB hits, of both builds
in one process and in turns of a fraction of a millisecond: the quickest, and the least disturbed. Or A is a folder
of results that `pcache-sweep run --build A --build B` has made. Or A and B are folders of results of the same spec;
those were not measured in turn, so what drifted between them counts as a difference. Or A and B are files that
`pcache-microbench --benchmark_out=FILE` has written, with 9 repetitions or more of each benchmark.

Given is the speed of the second relative to the first. Exit status: 0 no case has fewer requests per second, and
no latency that could be told is longer; 1 one has; 2 an error: nothing could be judged; 3 it cannot be told of each
case: the noise is larger than the threshold, or measurements are missing. With --strict that is 3 for a latency, too.
"""
import dataclasses
import pathlib
import sys

from . import micro_results, outcome_files, pcache_sweep
from .command_line import Parser
from .doubts import Doubts, say
from .errors import MeasureError
from .judge import LEAST_ROUNDS, METRICS, figures_text, judge, line_of
from .machine import machine_key
from .outcome import Check, Exit, Outcome, figures_of
from .run_folder import Run
from .scratch import new_folder
from .turns import Turns

ROUNDS, MOST_ROUNDS, SPEC = 12, 96, "gate"  # of builds
THRESHOLD, HITS_THRESHOLD = 5, 3  # per cent. The code's place in memory alone makes hits differ by up to two
OUTCOMES = {"slower": Outcome.FAILED, "cannot tell": Outcome.UNJUDGED}
MUST_BE_TOLD = (METRICS[0].name, *micro_results.METRICS)
MOST_NAMED = 6
ENGINE = "lib/libpcache_fio.so"


def is_build(path):
    return (path / ENGINE).exists()


def rounds_of(run, case, build):
    return {s.repeat: s.metrics for s in run.of(case, build)}


@dataclasses.dataclass
class Comparison:
    verdicts: list  # of (case id, Verdict)
    untold: dict  # {case id: why nothing can be said of its requests per second}

    @property
    def cases(self):
        return {case for case, _ in self.verdicts} | self.untold.keys()

    @property
    def unclear(self):
        """{case id: verdict} where what must be told is too noisy; unless something else says slower."""
        slower = {case for case, v in self.verdicts if v.what == "slower"}
        return {case: v for case, v in self.verdicts
                if v.metric in MUST_BE_TOLD and v.what == "cannot tell" and case not in slower}

    def without_latencies(self):
        """Who shares a CPU waits for whole slices of time, by whichever build: no latency tells them apart then."""
        return dataclasses.replace(self, verdicts=[
            (case, dataclasses.replace(v, what="cannot tell") if v.what in ("slower", "faster")
             and v.metric not in MUST_BE_TOLD else v) for case, v in self.verdicts])


def findings_of(pairs, threshold):
    """pairs: {case id: (first, second)}, each {round: metrics}."""
    found = Comparison([], {})
    for case, (first, second) in pairs.items():
        if not first.keys() & second.keys():
            found.untold[case] = f"no round has both: {len(first)} measurements of one, {len(second)} of the other"
            continue
        verdicts = [v for v in (judge(first, second, metric, threshold) for metric in METRICS) if v]
        found.verdicts += [(case, v) for v in verdicts]
        if METRICS[0].name not in (v.metric for v in verdicts):
            found.untold[case] = "it has no requests per second"
    return found


def compared_of(pairs, threshold, doubts):
    """As findings_of(), without what the doubts rule out: so also what decides whether more rounds are needed."""
    found = findings_of(pairs, threshold)
    return found.without_latencies() if any(one.is_overloaded for one in doubts) else found


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
    pcache_sweep.run(options.spec, *(f"--build={b}" for b in builds), "--repeats", rounds, "--output", folder, *keep,
                     quiet=options.quiet)
    while True:
        run = Run(folder)
        found = compared_of(of_two_builds(run), threshold, [Doubts.of(run, None)])
        if not found.unclear or rounds >= most_rounds:
            return found
        before, rounds = rounds, min(most_rounds, rounds * 2)
        if not options.quiet:
            print(f"compare: after {before} rounds {len(found.unclear)} of {len(found.cases)} cases cannot be told; "
                  f"{rounds - before} more", file=sys.stderr)
        pcache_sweep.run("--resume", folder, "--repeats", rounds, *keep, quiet=options.quiet)


def names_of(cases):
    cases = sorted(set(cases))
    return ", ".join(cases[:MOST_NAMED]) + (f" and {len(cases) - MOST_NAMED} more" if len(cases) > MOST_NAMED else "")


def why_not(found, threshold, cure):
    """Of what cannot be told, what stands in the way."""
    few = [case for case, v in found.unclear.items() if v.ratio.n < LEAST_ROUNDS]
    noisy = {case: v for case, v in found.unclear.items() if case not in few}
    if noisy:
        worst = max(v.ratio.half_width for v in noisy.values())
        yield (f"the noise is up to {100 * worst:.1f} % of the figure, the threshold {100 * threshold:g} %, in "
               f"{names_of(noisy)}: more rounds or a quieter machine will")
    if few:
        yield f"fewer than {LEAST_ROUNDS} rounds have both in {names_of(few)}{cure}"
    if found.untold:
        yield f"nothing to compare in {names_of(found.untold)}"


def cure_of(runs):
    """The commands that add what few rounds lack; nothing where rounds were asked for and have failed."""
    short = [run for run in runs if run.info.get("repeats", LEAST_ROUNDS) < LEAST_ROUNDS]
    return "".join(f"; pcache-sweep run --resume {run.folder} --rounds {LEAST_ROUNDS} adds them" for run in short)


def say_sources(runs, found):
    """What is compared, as the builds themselves say it."""
    first, second = [source for run in runs for source in run.sources().values()]
    print(f"compare: first {first}, second {second}")
    machines = [machine_key(cpu) for run in runs if (cpu := run.info.get("host", {}).get("cpu"))]
    found.facts |= {"first": first, "second": second, "machine": " and ".join(dict.fromkeys(machines)) or "unknown"}


def check_of(case, verdict):
    outcome = OUTCOMES.get(verdict.what, Outcome.PASSED)
    return Check(verdict.metric, case, outcome, verdict.what, figures_text(verdict),
                 {"ratio": figures_of(verdict.ratio), "p": verdict.p})


def say_doubts(doubts, found):
    """How wide an interval is, is judged itself. Given are those by which this is a verdict on the disk."""
    notes = [note for one in doubts for note in one.notes()]
    say("compare", notes)
    found.notes += notes
    return [one.waited_note() for one in doubts if one.is_of_the_disk]


def conclude(compared, threshold, found, doubts, cure=""):
    """Prints it all, and fills in what was found."""
    for case, why in compared.untold.items():
        print(f"{case:<48} {why}: cannot tell")
        found.checks.append(Check(METRICS[0].name, case, Outcome.UNJUDGED, "cannot tell", why))
    for case, verdict in compared.verdicts:
        print(line_of(case, verdict))
        found.checks.append(check_of(case, verdict))
    if not compared.verdicts:
        raise MeasureError("compare: nothing was measured that could be compared; expected measurements of the cache "
                           "or the bound by both sides, in the same rounds")
    found.status, found.headline = verdict_on(compared, threshold, cure, found.is_strict)
    for note in say_doubts(doubts, found):
        found.headline += f"; {note}"
        found.checks.append(Check("doubts", "writeback", Outcome.UNJUDGED, "of the disk", note))
        if found.is_strict and found.status is Exit.OK:
            found.status = Exit.CANNOT_TELL
    print(f"compare: {found.headline}")


def verdict_on(compared, threshold, cure, is_strict):
    """(exit status, headline)."""
    slower = [case for case, v in compared.verdicts if v.what == "slower"]
    if slower:
        return Exit.WORSE, f"SLOWER: {', '.join(sorted(set(slower)))}"
    if compared.unclear or compared.untold:
        return Exit.CANNOT_TELL, f"cannot tell: {'; '.join(why_not(compared, threshold, cure))}"
    untold = [f"{v.metric} of {case}" for case, v in compared.verdicts if v.what == "cannot tell"]
    status = Exit.CANNOT_TELL if untold and is_strict else Exit.OK
    return status, (f"no case is slower by {100 * threshold:g} %" +
                    (f"; but for what is too noisy to tell: {names_of(untold)}" if untold else ""))


def judge_kept(options, threshold, found):
    """Results that are there already."""
    runs = [Run(folder) for folder in (options.a, options.b) if folder]
    pairs = of_two_runs(*runs) if options.b else of_two_builds(runs[0])
    doubts = [Doubts.of(run, None) for run in runs]
    compared = compared_of(pairs, threshold, doubts)
    say_sources(runs, found)
    if options.b:
        note = "two results that were not measured in turn: what drifted between them counts as a difference"
        print(f"compare: {note}", file=sys.stderr)
        found.notes.append(note)
    conclude(compared, threshold, found, doubts, cure_of(runs))


def judge_micro(options, threshold, found):
    """Two files of pcache-microbench."""
    files = [micro_results.MicroResults(path) for path in (options.a, options.b)]
    compared = Comparison(*micro_results.compare(*files, threshold))
    found.facts |= {"first": files[0].source(), "second": files[1].source()}
    print(f"compare: first {files[0].source()}, second {files[1].source()}")
    notes = ["two files that were not measured in turn: what drifted between them counts as a difference",
             *micro_results.differences_of(*files)]
    say("compare", notes)
    found.notes += notes
    few = any(v.ratio.n < LEAST_ROUNDS for _, v in compared.verdicts)
    conclude(compared, threshold, found, [],
             f"; pcache-microbench {micro_results.RERUN} makes as many" if few else "")


def judge_builds(options, threshold, found):
    with new_folder("pcache-compare-") as scratch:
        folder = options.output or scratch / "run"
        compared = measure((options.a, options.b), options, threshold, folder)
        runs = [Run(folder)]
    say_sources(runs, found)
    conclude(compared, threshold, found, [Doubts.of(run, None) for run in runs])


def judge_hits(options, threshold, found):
    """Two builds in one process."""
    measured = Turns(options.a, options.b)
    measured.add(options.rounds)
    while (compared := findings_of(measured.pairs, threshold)).unclear and measured.rounds < options.most_rounds:
        measured.add(min(measured.rounds, options.most_rounds - measured.rounds))
    found.facts |= measured.facts()
    print(f"compare: first {found.facts['first']}, second {found.facts['second']}")
    conclude(compared, threshold, found, [])


def parse(arguments):
    parser = Parser("compare", __doc__)
    parser.add_argument("a", type=pathlib.Path, metavar="A")
    parser.add_argument("b", type=pathlib.Path, nargs="?", metavar="B")
    parser.add_argument("--spec", help=f"a preset or a file; default {SPEC}")
    parser.add_argument("--hits", action="store_true", help="4 KiB hits in one process, in place of the spec's cases")
    parser.add_argument("--threshold", type=float, metavar="PERCENT",
                        help=f"default {THRESHOLD:g}, with --hits {HITS_THRESHOLD:g}")
    parser.add_argument("--rounds", type=int, help=f"at first; default {ROUNDS}")
    parser.add_argument("--most-rounds", type=int, help=f"default {MOST_ROUNDS}, or --rounds if that is more")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER", help="keeps the measurements there")
    outcome_files.add_options(parser)
    options = parser.parse_args(arguments)
    options.of_micro = bool(options.b) and options.a.is_file() and options.b.is_file()
    options.of_builds = bool(options.b) and is_build(options.a) and is_build(options.b)
    if options.threshold is None:
        options.threshold = HITS_THRESHOLD if options.hits else THRESHOLD
    if not 0 < options.threshold < 100:
        parser.error(f"--threshold {options.threshold:g}: expected a percentage")
    if not options.of_builds:
        for name in ("hits", "spec", "rounds", "most_rounds", "output"):
            if getattr(options, name) not in (None, False):
                one = next((path for path in (options.a, options.b) if path and not is_build(path)), options.a)
                parser.error(f"--{name.replace('_', '-')} is of two builds, and {one} is none (it has no {ENGINE}); to "
                             "kept results, `pcache-sweep run --resume FOLDER --rounds N` adds rounds")
    if options.hits and (options.spec or options.output):
        parser.error(f"--{'spec' if options.spec else 'output'} with --hits: expected one of them, hits are measured "
                     "without fio, and only judged")
    options.spec, options.rounds = options.spec or SPEC, ROUNDS if options.rounds is None else options.rounds
    if options.most_rounds is None:
        options.most_rounds = max(MOST_ROUNDS, options.rounds)
    if options.rounds < LEAST_ROUNDS or options.most_rounds < options.rounds:
        parser.error(f"--rounds {options.rounds}: expected {LEAST_ROUNDS} or more, and no more than --most-rounds")
    return options


def main(arguments):
    options = parse(arguments)
    with outcome_files.written("compare", options) as found:
        found.facts["threshold"] = f"{options.threshold:g} %"
        judge_them = (judge_micro if options.of_micro else judge_hits if options.hits else
                      judge_builds if options.of_builds else judge_kept)
        judge_them(options, options.threshold / 100, found)
    return int(found.status)
