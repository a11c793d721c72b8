# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep gate --baseline FILE [--build DIR] [--counts | --ratios] [--only REGEX]
                   [--accept REASON]

Judges a build by a baseline that is committed (results/gate.json). Counts (instructions, flushes, fences,
allocations, system calls of a request) are the same on every run, and are judged everywhere. Ratios to the
bound are measured here, and judged where the baseline has figures of this kind of CPU.

Exit status: 0 nothing is worse, 1 something is. --accept REASON measures anew and makes that the baseline.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import counts
from compare import SOURCE, sweep
from results import Run, Wrong
from stats import estimate, paired_ratios

SCHEMA = "pcache-gate/1"
# Instructions: the compiler's freedom within one version. What is counted in whole things has none, but for the ksets
# that happen to be closed.
MAY_GROW = {"instructions": 0.02, "flushes": 0.02, "fences": 0.02, "allocations": 0, "system_calls": 0}
# Of what is not there at all: the rounding; and where reading the clock is a system call, one request in 64 reads it.
SLACK = {"instructions": 0.001, "flushes": 0.001, "fences": 0.001, "allocations": 0.001, "system_calls": 0.05}
SPEC = SOURCE / "configs" / "gate.yaml"


def load(path):
    try:
        baseline = json.loads(path.read_text())
    except FileNotFoundError:
        raise Wrong(f"{path}: is not there; --accept REASON makes it") from None
    except json.JSONDecodeError as error:
        raise Wrong(f"{path}: {error}") from None
    if baseline.get("schema") != SCHEMA:
        raise Wrong(f"{path}: schema {baseline.get('schema')}, expected {SCHEMA}")
    return baseline


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
        elif ratio.half_width > threshold:
            found[case] = f"cannot tell: noise {100 * ratio.half_width:.1f} %, threshold {100 * threshold:g} %"
        elif ratio.high < min(before["low"], before["median"] * (1 - threshold)):
            found[case] = f"worse: {before['median']:.3f} -> {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        else:
            found[case] = f"ok: {before['median']:.3f} -> {ratio.median:.3f}"
    return found


def measure_ratios(build, rounds):
    """({case: ratio to the bound}, model of the CPU)."""
    with tempfile.TemporaryDirectory(prefix="pcache-gate-") as scratch:
        folder = pathlib.Path(scratch) / "run"
        sweep("run", SPEC, f"--build={build}", "--repeats", rounds, "--output", folder)
        run = Run(folder)
    ratios = {}
    for case in run.cases:
        bound = run.bound_of(case)
        if bound:
            values = [{s.repeat: s.metrics["iops"] for s in run.samples if s.case is c} for c in (case, bound)]
            ratios[case.id] = estimate(paired_ratios(*values))
    return ratios, run.info["host"]["cpu"]["model"]


def accept(options, program):
    baseline = {"schema": SCHEMA, "threshold": 0.25, "rounds": options.rounds, "counts": {}, "ratios": {}}
    if options.baseline.exists():
        baseline = load(options.baseline)
    baseline["reason"] = options.accept
    commit = subprocess.run(["git", "-C", SOURCE, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True,
                            text=True, check=False)
    baseline["commit"] = commit.stdout.strip()
    if not options.ratios:
        baseline["compiler"], baseline["counts"] = counts.compiler(program), counts.count_all(program, options.only)
    if not options.counts:
        ratios, cpu = measure_ratios(options.build, options.rounds)
        baseline["ratios"][cpu] = {case: {"median": round(r.median, 4), "low": round(r.low, 4), "high": round(r.high, 4),
                                          "n": r.n} for case, r in ratios.items()}
    options.baseline.write_text(json.dumps(baseline, indent=1) + "\n")
    print(f"gate: {options.baseline} is the baseline now; commit it with the reason")
    return 0


def gate(options, program):
    baseline = load(options.baseline)
    failed = False
    if not options.ratios:
        same = counts.compiler(program) == baseline["compiler"]
        if not same:
            print(f"gate: instructions are not judged: the baseline is of {baseline['compiler']}, this build of "
                  f"{counts.compiler(program)}")
        now = counts.count_all(program, options.only)
        before = {name: c for name, c in baseline["counts"].items() if re.search(options.only, name)}
        worse, better = judge_counts(before, now, same)
        for line in worse:
            print(f"gate: WORSE  {line}")
        for line in better:
            print(f"gate: better  {line}")
        print(f"gate: counts: {len(now)} requests, {len(worse)} figures worse, {len(better)} better")
        if better and not worse:
            print("gate: --accept makes the better ones the baseline, so that they stay")
        failed |= bool(worse)
    if not options.counts:
        ratios, cpu = measure_ratios(options.build, baseline["rounds"])
        known = baseline["ratios"].get(cpu)
        for case, ratio in ratios.items():
            print(f"gate: {case:<40} {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the bound, n {ratio.n}")
        if known is None:
            print(f"gate: ratios are not judged: the baseline has none of {cpu}; it has {', '.join(baseline['ratios']) or 'none'}")
        else:
            for case, verdict in judge_ratios(known, ratios, baseline["threshold"]).items():
                print(f"gate: {case:<40} {verdict}")
                failed |= verdict.startswith("worse") or verdict.startswith("is not")
    print("gate: FAIL" if failed else "gate: ok")
    return 1 if failed else 0


def main(arguments):
    parser = argparse.ArgumentParser(prog="pcache-sweep gate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=pathlib.Path, required=True, metavar="FILE")
    parser.add_argument("--build", type=pathlib.Path, metavar="DIR", help="default: that of pcache-sweep")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--counts", action="store_true", help="these alone")
    only.add_argument("--ratios", action="store_true", help="these alone")
    parser.add_argument("--only", metavar="REGEX", default="", help="counts of these requests alone")
    parser.add_argument("--accept", metavar="REASON")
    parser.add_argument("--rounds", type=int, default=15, help="of ratios, with --accept")
    options = parser.parse_args(arguments)
    options.build = options.build or pathlib.Path(os.environ["PCACHE_SWEEP"]).parent.parent
    program = options.build / "bin" / "pcache-microbench"
    if not program.exists():
        raise Wrong(f"{program}: is not there; build it, or name another --build")
    sys.stdout.reconfigure(line_buffering=True)
    return accept(options, program) if options.accept else gate(options, program)
