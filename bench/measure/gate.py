# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep gate --baseline FILE [--build DIR] [--counts | --ratios] [--only REGEX]
                   [--accept REASON]

Judges a build by a baseline that is committed (results/gate.json). Counts (instructions, flushes, fences,
allocations, system calls of a request) are the same on every run, and are judged everywhere. Ratios to the
bound are measured here, and judged where the baseline has figures of this kind of CPU.

Exit status: 0 nothing is worse of what could be judged (the last line says `ok` if that was all, or what was not),
1 something is, 2 wrong use. --accept REASON measures anew and makes that the baseline.
"""
import pathlib
import sys

from . import pcache_sweep, request_counts
from .build_stamp import counted_stamp, other_source_tree
from .command_line import Parser, reason, regex
from .errors import MeasureError
from .estimates import estimate, paired_ratios
from .gate_baseline import SCHEMA, load, store
from .run_folder import Run
from .scratch import new_folder

# Instructions: the compiler's freedom within one version. What is counted in whole things has none, but for the ksets
# that happen to be closed.
MAY_GROW = {"instructions": 0.02, "flushes": 0.02, "fences": 0.02, "allocations": 0, "system_calls": 0}
# Of what is not there at all: the rounding; and where reading the clock is a system call, one request in 64 reads it.
SLACK = {"instructions": 0.001, "flushes": 0.001, "fences": 0.001, "allocations": 0.001, "system_calls": 0.05}
SPEC = "gate"  # a preset


def judge_counts(baseline, now, same_compiler):
    """Lines that say what is worse; and what is better by as much, which the baseline should know."""
    worse, better = [], []
    for name, before in baseline.items():
        if name not in now:
            worse.append(f"{name}: is not counted any more")
            continue
        for what, limit in MAY_GROW.items():
            if what == "instructions" and not same_compiler:
                continue
            a, b = before[what], now[name][what]
            if b > a * (1 + limit) + SLACK[what]:
                worse.append(f"{name}: {what} {a:g} -> {b:g} a request")
            elif b < a * (1 - limit) - SLACK[what]:
                better.append(f"{name}: {what} {a:g} -> {b:g} a request")
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


def measure_ratios(build, rounds):
    """({case: ratio to the bound}, model of the CPU)."""
    with new_folder("pcache-gate-") as scratch:
        folder = scratch / "run"
        pcache_sweep.run(SPEC, f"--build={build}", "--repeats", rounds, "--output", folder, "--temporary")
        run = Run(folder)
    ratios = {}
    for case in run.cases:
        bound = run.bound_of(case)
        if bound:
            values = [{s.repeat: s.metrics["iops"] for s in run.samples if s.case is c} for c in (case, bound)]
            ratio = estimate(paired_ratios(*values))
            if ratio:
                ratios[case.id] = ratio
    return ratios, run.info["host"]["cpu"]["model"]


def say_sources(build):
    """What is judged, as the build says it; it is returned."""
    facts = pcache_sweep.facts(build)
    stamp = counted_stamp(build, facts)
    print(f"gate: {build} is of {stamp}")
    other = other_source_tree(facts, stamp)
    if other:
        print(f"gate: its source tree is {other}, which is not what is judged; build it to judge that")
    return stamp


def accept(options, program):
    baseline = {"schema": SCHEMA, "threshold": 0.25, "rounds": options.rounds, "counts": {}, "ratios": {}}
    if options.baseline.exists():
        baseline = load(options.baseline)
    baseline["reason"] = options.accept
    baseline["commit"] = say_sources(options.build)
    if not options.ratios:
        accept_counts(baseline, options, program)
    if not options.counts:
        ratios, cpu = measure_ratios(options.build, options.rounds)
        baseline["ratios"][cpu] = {case: {"median": round(r.median, 4), "low": round(r.low, 4),
                                          "high": round(r.high, 4), "n": r.n} for case, r in ratios.items()}
    store(baseline, options.baseline)
    print(f"gate: {options.baseline} is the baseline now; commit it with the reason")
    return 0


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
    now = request_counts.count_all(program, options.only)
    if not now and not expected:
        raise MeasureError(f"gate: --only '{options.only.pattern}': no request has such a name; {program} "
                           "--list_counts names them")
    return now


def gate_counts(baseline, options, program):
    """(whether something is worse, what was not judged)."""
    unjudged = []
    same = request_counts.compiler(program) == baseline.get("compiler")
    if not same:
        print(f"gate: instructions are not judged: the baseline is of {baseline.get('compiler')}, this build of "
              f"{request_counts.compiler(program)}")
        unjudged.append("instructions")
    before = {name: c for name, c in baseline["counts"].items() if options.only.search(name)}
    now = count_some(options, program, before)
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
    return bool(worse), unjudged


def gate_ratios(baseline, options):
    """(whether something is worse, what was not judged)."""
    ratios, cpu = measure_ratios(options.build, baseline["rounds"])
    known = baseline["ratios"].get(cpu)
    for case, ratio in ratios.items():
        print(f"gate: {case:<40} {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the bound, n {ratio.n}")
    if not known:
        print(f"gate: ratios are not judged: the baseline has none of {cpu}; it has "
              f"{', '.join(baseline['ratios']) or 'none'}")
        return False, ["ratios to the bound"]
    verdicts = judge_ratios(known, ratios, baseline["threshold"])
    for case, verdict in verdicts.items():
        print(f"gate: {case:<40} {verdict}")
    unjudged = [f"the ratio of {case}" for case, verdict in verdicts.items() if verdict.startswith("cannot tell")]
    unjudged += [f"the ratio of {case}, which the baseline does not have" for case in ratios if case not in known]
    return any(verdict.startswith(("worse", "is not")) for verdict in verdicts.values()), unjudged


def last_line(failed, unjudged):
    """`ok` is said when all that was asked for was judged."""
    if failed:
        return "gate: FAIL"
    return f"gate: nothing is worse of what was judged; not judged: {', '.join(unjudged)}" if unjudged else "gate: ok"


def gate(options, program):
    baseline = load(options.baseline)
    say_sources(options.build)
    failed, unjudged = False, []
    parts = [] if options.ratios else [lambda: gate_counts(baseline, options, program)]
    parts += [] if options.counts else [lambda: gate_ratios(baseline, options)]
    for part in parts:
        worse, not_judged = part()
        failed |= worse
        unjudged += not_judged
    print(last_line(failed, unjudged))
    return 1 if failed else 0


def main(arguments):
    parser = Parser("gate", __doc__)
    parser.add_argument("--baseline", type=pathlib.Path, required=True, metavar="FILE")
    parser.add_argument("--build", type=pathlib.Path, metavar="DIR", help="default: that of pcache-sweep")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--counts", action="store_true", help="these alone")
    only.add_argument("--ratios", action="store_true", help="these alone")
    parser.add_argument("--only", metavar="REGEX", type=regex, default="", help="counts of these requests alone")
    parser.add_argument("--accept", metavar="REASON", type=reason)
    parser.add_argument("--rounds", type=int, default=15, help="of ratios, with --accept")
    options = parser.parse_args(arguments)
    if not 1 <= options.rounds <= 1000:
        parser.error(f"--rounds {options.rounds}: expected 1 to 1000")
    options.build = options.build or pcache_sweep.program().parent.parent
    program = options.build / "bin" / "pcache-microbench"
    if not program.exists():
        raise MeasureError(f"{program}: is not there; build it, or name another --build")
    sys.stdout.reconfigure(line_buffering=True)
    return accept(options, program) if options.accept else gate(options, program)
