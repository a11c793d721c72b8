# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep gate --baseline FILE [--build DIR] [--counts | --ratios] [--only REGEX] [--rounds N]
                   [--strict] [--json FILE] [--junit FILE] [--markdown FILE] [--output FOLDER]
                   [--accept REASON]

Judges a build by a baseline that is committed (results/gate.json). Counts (instructions, flushes, fences,
allocations, system calls of a request) are the same on every run, and are judged everywhere. Ratios to the
bound are measured here, and judged where the baseline has figures of this kind of CPU.

Exit status: 0 nothing is worse of what could be judged (the last line says `ok` if that was all, or what was not),
1 something is, 2 an error and no verdict, 3 with --strict: nothing is worse, and something was not judged.
--accept REASON measures anew and makes that the baseline.
"""
import pathlib
import sys

from . import outcome_files, pcache_sweep, request_counts
from .build_stamp import counted_stamp, other_source_tree
from .command_line import Parser, reason, regex
from .doubts import Doubts, say
from .errors import MeasureError
from .estimates import estimate, paired_ratios
from .gate_baseline import SCHEMA, load, store
from .machine import machine_key
from .outcome import Check, Exit, Outcome, figures_of
from .run_folder import Run
from .scratch import new_folder

# Instructions: the compiler's freedom within one version. What is counted in whole things has none, but for the ksets
# that happen to be closed.
MAY_GROW = {"instructions": 0.02, "flushes": 0.02, "fences": 0.02, "allocations": 0, "system_calls": 0}
# Of what is not there at all: the rounding; and where reading the clock is a system call, one request in 64 reads it.
SLACK = {"instructions": 0.001, "flushes": 0.001, "fences": 0.001, "allocations": 0.001, "system_calls": 0.05}
SPEC = "gate"  # a preset
ACCEPTED_ROUNDS = 15


def changes_of(before, now, same_compiler):
    """(what is worse, what is better by as much) of one request: texts."""
    worse, better = [], []
    for what, limit in MAY_GROW.items():
        if what == "instructions" and not same_compiler:
            continue
        a, b = before[what], now[what]
        if b > a * (1 + limit) + SLACK[what]:
            worse.append(f"{what} {a:g} -> {b:g} a request")
        elif b < a * (1 - limit) - SLACK[what]:
            better.append(f"{what} {a:g} -> {b:g} a request")
    return worse, better


def judge_counts(baseline, now, same_compiler):
    """Lines that say what is worse; and what is better by as much, which the baseline should know."""
    worse, better = [], []
    for name, before in baseline.items():
        if name not in now:
            worse.append(f"{name}: is not counted any more")
            continue
        found = changes_of(before, now[name], same_compiler)
        worse += [f"{name}: {text}" for text in found[0]]
        better += [f"{name}: {text}" for text in found[1]]
    return worse, better


def judge_ratios(baseline, now, threshold):
    """{case: verdict}: "worse" when even the best that the interval allows is below the baseline's worst, by the
    threshold."""
    found = {}
    for case, before in baseline.items():
        ratio = now.get(case)
        if ratio is None:
            found[case] = "is not measured any more"
        # Before the noise: of a build that is much slower the interval is wide, relative to its median.
        elif ratio.high < min(before["low"], before["median"] * (1 - threshold)):
            found[case] = f"worse: {before['median']:.3f} -> {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        elif ratio.half_width > threshold:
            found[case] = f"cannot tell: noise {100 * ratio.half_width:.1f} %, threshold {100 * threshold:g} %"
        else:
            found[case] = f"ok: {before['median']:.3f} -> {ratio.median:.3f}"
    return found


def measure_ratios(build, rounds, output, quiet):
    """({case: ratio to the bound}, the kind of machine, Doubts)."""
    with new_folder("pcache-gate-") as scratch:
        folder = output or scratch / "run"
        keep = [] if output else ["--temporary"]
        pcache_sweep.run(SPEC, f"--build={build}", "--repeats", rounds, "--output", folder, *keep, quiet=quiet)
        run = Run(folder)
    ratios = {}
    for case in run.cases:
        bound = run.bound_of(case)
        if bound:
            values = [{s.repeat: s.metrics["iops"] for s in run.samples if s.case is c} for c in (case, bound)]
            ratio = estimate(paired_ratios(*values))
            if ratio:
                ratios[case.id] = ratio
    return ratios, machine_key(run.info["host"]["cpu"]), Doubts.of(run, None)


def say_sources(build, found):
    """What is judged, as the build says it; it is returned."""
    facts = pcache_sweep.facts(build)
    stamp = counted_stamp(build, facts)
    print(f"gate: {build} is of {stamp}")
    found.facts |= {"build": str(build), "commit": stamp, "machine": machine_key(facts["host"]["cpu"])}
    other = other_source_tree(facts, stamp)
    if other:
        note = f"its source tree is {other}, which is not what is judged; build it to judge that"
        print(f"gate: {note}")
        found.notes.append(note)
    return stamp


def accept(options, program, found):
    rounds = options.rounds or ACCEPTED_ROUNDS
    baseline = {"schema": SCHEMA, "threshold": 0.25, "rounds": rounds, "counts": {}, "ratios": {}}
    if options.baseline.exists():
        baseline = load(options.baseline)
    if options.rounds:
        baseline["rounds"] = rounds
    baseline["reason"] = options.accept
    baseline["commit"] = say_sources(options.build, found)
    if not options.ratios:
        accept_counts(baseline, options, program)
    if not options.counts:
        ratios, machine, doubts = measure_ratios(options.build, rounds, options.output, options.quiet)
        say_doubts(doubts, found)
        baseline["ratios"][machine] = {case: {"median": round(r.median, 4), "low": round(r.low, 4),
                                              "high": round(r.high, 4), "n": r.n} for case, r in ratios.items()}
    store(baseline, options.baseline)
    found.status, found.headline = Exit.OK, f"{options.baseline} is the baseline now; commit it with the reason"


def accept_counts(baseline, options, program):
    """Those that --only names; the others stay what they are."""
    others = {name: c for name, c in baseline["counts"].items() if not options.only.search(name)}
    compiler = request_counts.compiler(program)
    if others and compiler != baseline.get("compiler"):
        raise MeasureError(f"{options.baseline}: the counts that --only leaves are of {baseline.get('compiler')}, "
                           f"this build is of {compiler}; accept all of them, without --only")
    now = count_some(options, program, {})
    order = [name for name in baseline["counts"] if name in others or name in now]
    order += [name for name in now if name not in order]
    baseline["compiler"], baseline["counts"] = compiler, {name: others.get(name) or now[name] for name in order}


def count_some(options, program, expected):
    now = request_counts.count_all(program, options.only, options.quiet)
    if not now and not expected:
        raise MeasureError(f"gate: --only '{options.only.pattern}': no request has such a name; {program} "
                           "--list_counts names them")
    return now


def check_of_counts(name, before, now, same_compiler):
    if now is None:
        return Check("counts", name, Outcome.FAILED, "gone", "is not counted any more", {"baseline": before})
    if before is None:
        return Check("counts", name, Outcome.UNJUDGED, "new", "the baseline does not have it; --accept takes it in",
                     {"now": now})
    worse, better = changes_of(before, now, same_compiler)
    verdict = "worse" if worse else "better" if better else "same"
    text = "; ".join(worse + better) or f"{now['instructions']:g} instructions a request"
    return Check("counts", name, Outcome.FAILED if worse else Outcome.PASSED, verdict, text,
                 {"baseline": before, "now": now})


def gate_counts(baseline, options, program, found):
    """What was not judged."""
    unjudged = []
    compiler = request_counts.compiler(program)
    found.facts["compiler"] = compiler
    same = compiler == baseline.get("compiler")
    if not same:
        text = f"the baseline is of {baseline.get('compiler')}, this build of {compiler}"
        print(f"gate: instructions are not judged: {text}")
        unjudged.append("instructions")
        found.checks.append(Check("counts", "instructions", Outcome.UNJUDGED, "another compiler", text))
    before = {name: c for name, c in baseline["counts"].items() if options.only.search(name)}
    now = count_some(options, program, before)
    found.checks += [check_of_counts(name, before.get(name), now.get(name), same)
                     for name in [*before, *(name for name in now if name not in before)]]
    worse, better = judge_counts(before, now, same)
    for line in worse:
        print(f"gate: WORSE  {line}")
    for line in better:
        print(f"gate: better  {line}")
    for name in now:
        if name not in before:
            print(f"gate: new  {name}: the baseline does not have it; --accept takes it in")
            unjudged.append(name)
    print(f"gate: counts: {len(now)} requests, {len(worse)} figures worse, {len(better)} better")
    if better and not worse:
        print("gate: --accept makes the better ones the baseline, so that they stay")
    return unjudged


def check_of_ratio(case, verdict, before, ratio):
    figures = {"baseline": before} | ({"now": figures_of(ratio)} if ratio else {})
    outcome = (Outcome.UNJUDGED if verdict.startswith("cannot tell") else
               Outcome.FAILED if verdict.startswith(("worse", "is not")) else Outcome.PASSED)
    short = verdict.split(":")[0] if ratio else "gone"
    text = verdict
    if ratio:
        was = f"{before['median']:.3f} ({before['low']:.3f} to {before['high']:.3f})"
        text = f"{was} -> {said_of(ratio)}" + (f"; {verdict}" if short == "cannot tell" else "")
    return Check("ratios", case, outcome, short, text, figures)


def said_of(ratio):
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the bound, n {ratio.n}"


def say_doubts(doubts, found):
    """How wide an interval is, is judged itself."""
    notes = list(doubts.notes())
    say("gate", notes)
    found.notes += notes


def gate_ratios(baseline, options, found):
    """What was not judged."""
    ratios, machine, doubts = measure_ratios(options.build, options.rounds or baseline["rounds"], options.output,
                                             options.quiet)
    say_doubts(doubts, found)
    known = baseline["ratios"].get(machine)
    for case, ratio in ratios.items():
        print(f"gate: {case:<40} {said_of(ratio)}")
    if not known:
        why = f"the baseline has none of {machine}; it has {', '.join(baseline['ratios']) or 'none'}"
        print(f"gate: ratios are not judged: {why}")
        found.checks += [Check("ratios", case, Outcome.UNJUDGED, "another machine", f"{said_of(ratio)}; {why}",
                               {"now": figures_of(ratio)}) for case, ratio in ratios.items()]
        return ["ratios to the bound"]
    verdicts = judge_ratios(known, ratios, baseline["threshold"])
    for case, verdict in verdicts.items():
        print(f"gate: {case:<40} {verdict}")
        found.checks.append(check_of_ratio(case, verdict, known[case], ratios.get(case)))
    unjudged = [f"the ratio of {case}" for case, verdict in verdicts.items() if verdict.startswith("cannot tell")]
    if doubts.is_of_the_disk:
        unjudged.append(f"the cache: {doubts.waited_note()}")
        found.checks.append(Check("ratios", "writeback", Outcome.UNJUDGED, "of the disk", doubts.waited_note()))
    for case in ratios:
        if case not in known:
            unjudged.append(f"the ratio of {case}, which the baseline does not have")
            found.checks.append(Check("ratios", case, Outcome.UNJUDGED, "new", f"{said_of(ratios[case])}; the baseline "
                                      "does not have it", {"now": figures_of(ratios[case])}))
    return unjudged


def gate(options, program, found):
    baseline = load(options.baseline)
    found.facts["baseline"] = f"{options.baseline} of {baseline.get('commit', 'unknown')}"
    say_sources(options.build, found)
    unjudged = [] if options.ratios else gate_counts(baseline, options, program, found)
    unjudged += [] if options.counts else gate_ratios(baseline, options, found)
    conclude(found, unjudged)


def conclude(found, unjudged):
    """`ok` is said when all that was asked for was judged."""
    if failed := found.of(Outcome.FAILED):
        found.status, found.headline = Exit.WORSE, f"FAIL: {len(failed)} of {len(found.checks)} are worse"
    elif unjudged:
        found.status = Exit.CANNOT_TELL if found.is_strict else Exit.OK
        found.headline = f"nothing is worse of what was judged; not judged: {', '.join(unjudged)}"
    else:
        found.status, found.headline = Exit.OK, "ok"


def main(arguments):
    parser = Parser("gate", __doc__)
    parser.add_argument("--baseline", type=pathlib.Path, required=True, metavar="FILE")
    parser.add_argument("--build", type=pathlib.Path, metavar="DIR", help="default: that of pcache-sweep")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--counts", action="store_true", help="these alone")
    only.add_argument("--ratios", action="store_true", help="these alone")
    parser.add_argument("--only", metavar="REGEX", type=regex, default="", help="counts of these requests alone")
    parser.add_argument("--accept", metavar="REASON", type=reason)
    parser.add_argument("--rounds", type=int, help="of ratios; default the baseline's; with --accept, the baseline's "
                        f"from now on, or {ACCEPTED_ROUNDS}")
    parser.add_argument("--output", type=pathlib.Path, metavar="FOLDER", help="keeps the measurements of ratios there")
    outcome_files.add_options(parser)
    options = parser.parse_args(arguments)
    if options.rounds is not None and not 1 <= options.rounds <= 1000:
        parser.error(f"--rounds {options.rounds}: expected 1 to 1000")
    for name in ("rounds", "output"):
        if options.counts and getattr(options, name) is not None:
            parser.error(f"--{name} is of ratios, and has no effect with --counts; leave one of them out")
    options.build = options.build or pcache_sweep.program().parent.parent
    program = options.build / "bin" / "pcache-microbench"
    if not program.exists():
        raise MeasureError(f"{program}: is not there; build it, or name another --build")
    sys.stdout.reconfigure(line_buffering=True)
    with outcome_files.written("gate", options) as found:
        (accept if options.accept else gate)(options, program, found)
        print(f"gate: {found.headline}")
    return int(found.status)
