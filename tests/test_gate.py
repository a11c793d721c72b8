# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare and gate: what is slower is found, what is not is left alone, noise is named."""

import json
import math
import os
import random
import shutil
import subprocess

import pytest
import scipy.stats

from measure import estimates, gate
from measure.judge import LEAST_ROUNDS, METRICS, judge
from measure.libpcache import BUILD
from slowed_build import make_slowed


SWEEP = BUILD / "bin" / "pcache-sweep"
SAME, SLOWER, CANNOT_TELL = 0, 1, 3
# One case, short: a request path and nothing else.
SPEC = """\
name: short
runtime: 10s
repeats: 12
matrix: {cache_size: 512m, working_set: 0.03, volume: 0.55, rw: randwrite}
"""


def run(*arguments, timeout=140):
    return subprocess.run([SWEEP, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False)


# ---- The judge, over made-up measurements ----

def made_up(seed, rounds, speed=1.0, noise=0.03, drift=0.0):
    """{round: metrics}. What drifts is common to both sides of a round: it follows from the round alone."""
    rng = random.Random(seed)
    return {r: {"iops": 1e6 * speed * (1 + drift * r / rounds) * rng.lognormvariate(0, noise)} for r in range(rounds)}


IOPS = METRICS[0]


def test_equal_sides_are_never_slower():
    wrong = [seed for seed in range(300) for rounds in (12, 24, 48)
             if judge(made_up(seed, rounds), made_up(seed + 1000, rounds), IOPS, 0.05).what in ("slower", "faster")]
    assert not wrong


def test_a_slower_side_is_found_and_a_faster_one_is_no_alarm():
    for seed in range(50):
        verdict = judge(made_up(seed, 24), made_up(seed + 1000, 24, speed=0.9), IOPS, 0.05)
        assert verdict.what == "slower" and 0.85 < verdict.ratio.median < 0.95
        assert judge(made_up(seed, 24), made_up(seed + 1000, 24, speed=1.1), IOPS, 0.05).what == "faster"


def test_what_drifts_for_both_is_no_difference():
    for seed in range(50):
        a, b = made_up(seed, 24, drift=2.0), made_up(seed + 1000, 24, drift=2.0)
        assert judge(a, b, IOPS, 0.05).what == "same"


def test_noise_above_the_threshold_is_not_judged():
    whats = [judge(made_up(seed, 12, noise=0.4), made_up(seed + 1000, 12, noise=0.4), IOPS, 0.05).what
             for seed in range(50)]
    assert set(whats) == {"cannot tell"}
    assert judge(made_up(1, 5), made_up(2, 5, speed=0.5), IOPS, 0.05).what == "cannot tell", "too few"


def test_what_may_be_slower_is_not_called_the_same():
    """An interval may be narrow and lie beyond the threshold, with too few rounds to be sure."""
    def of(ratios):
        a = {r: {"iops": 1e6} for r in range(len(ratios))}
        return judge(a, {r: {"iops": 1e6 * x} for r, x in enumerate(ratios)}, IOPS, 0.05)
    once = of([0.85, 0.86, 0.869, 0.87, 0.875, 0.88, 0.88, 0.885, 0.89, 0.93, 1.2, 1.25])
    assert once.ratio.half_width < 0.05 and once.p > 0.005 and once.what == "cannot tell"
    assert of([0.93, 0.935, 0.94, 0.945, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975]).what == "cannot tell"
    assert of([0.96, 0.965, 0.97, 0.97, 0.97, 0.97, 0.97, 0.975, 0.98, 0.985]).what == "same"
    assert of([1.06, 1.06, 1.06, 1.06, 1.06, 1.05, 1.06, 1.06, 1.06, 1.06]).what == "faster"


def test_the_least_number_of_rounds_can_find_something():
    a = made_up(1, LEAST_ROUNDS)
    assert judge(a, made_up(2, LEAST_ROUNDS, speed=0.8), IOPS, 0.05).what == "slower"
    assert judge(a, made_up(2, LEAST_ROUNDS, speed=1.3), IOPS, 0.05).what == "faster"


def test_p_is_exact_for_few_rounds():
    for n in (6, 9, 12, 25):
        rng = random.Random(n)
        ratios = [rng.lognormvariate(0.02, 0.03) for _ in range(n)]
        assert estimates.p_of_no_difference(ratios) == pytest.approx(
            scipy.stats.wilcoxon([math.log(r) for r in ratios], method="exact").pvalue)
    # With ties and zeros, by hand: of 64 ways to give signs, all alike has 1 on either side, one other has 6.
    assert estimates.p_of_no_difference([1.1] * 6) == pytest.approx(2 / 64)
    assert estimates.p_of_no_difference([1.0] * 2 + [1.1] * 6) == pytest.approx(2 / 64)
    assert estimates.p_of_no_difference([2.0] * 5 + [0.5]) == pytest.approx(14 / 64)
    assert estimates.p_of_no_difference([1.0] * 9) == 1


def test_latency_counts_the_other_way_round():
    def of(p50):
        rng = random.Random(p50)
        return {r: {"iops": 1, "write": {"lat_ns": {"p50": p50 * rng.lognormvariate(0, 0.02)}}} for r in range(20)}
    assert judge(of(500), of(600), METRICS[1], 0.05).what == "slower"
    assert judge(of(600), of(500), METRICS[1], 0.05).what == "faster"
    assert judge(made_up(1, 20), made_up(2, 20), METRICS[1], 0.05) is None


def test_intervals_hold_what_they_should():
    held = 0
    for seed in range(200):
        rng = random.Random(seed)
        e = estimates.estimate([rng.lognormvariate(0, 0.2) for _ in range(25)])
        held += e.low <= 1 <= e.high
    assert 0.88 <= held / 200 <= 0.99
    few = estimates.estimate([3, 1, 2])
    assert (few.n, few.median, few.low, few.high) == (3, 2, 1, 3), "of few the range"


COUNTS = {"write": {"instructions": 1000.0, "flushes": 0.03, "fences": 1.016, "allocations": 0.0, "system_calls": 0.0}}


@pytest.mark.parametrize("change, worse, better", [
    ({}, 0, 0),
    ({"instructions": 1019.0}, 0, 0),
    ({"instructions": 1021.0}, 1, 0),
    ({"instructions": 900.0}, 0, 1),
    ({"fences": 2.016}, 1, 0),
    ({"flushes": 0.06}, 1, 0),
    ({"allocations": 0.01}, 1, 0),
    ({"system_calls": 1.0}, 1, 0),
    ({"system_calls": 0.016}, 0, 0),
    ({"system_calls": -0.0}, 0, 0),
])
def test_counts_are_judged_one_by_one(change, worse, better):
    now = {"write": {**COUNTS["write"], **change}}
    found = gate.judge_counts(COUNTS, now, True)
    assert [len(x) for x in found] == [worse, better]
    assert [len(x) for x in gate.judge_counts(COUNTS, {}, True)] == [1, 0]
    # Another compiler has other instructions, and no other fences.
    expected = 0 if "instructions" in change else worse
    assert len(gate.judge_counts(COUNTS, now, False)[0]) == expected


def test_ratios_are_judged_by_both_intervals():
    before = {"w": {"median": 0.9, "low": 0.88, "high": 0.92, "n": 15}}
    def verdict(*numbers):
        return gate.judge_ratios(before, {"w": estimates.Estimate(15, *numbers)}, 0.15)["w"].split(":")[0]
    assert verdict(0.89, 0.87, 0.91) == "ok"
    assert verdict(0.70, 0.68, 0.72) == "worse"
    assert verdict(0.74, 0.70, 0.78) == "ok", "the best that the interval allows is within the threshold"
    assert verdict(0.70, 0.50, 0.90) == "cannot tell"
    assert verdict(0.20, 0.10, 0.30) == "worse", "a wide interval, relative to its median, and all of it below"
    assert gate.judge_ratios(before, {}, 0.15)["w"] == "is not measured any more"


# ---- Builds ----

@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.mark.parametrize("seed", range(10 if os.environ.get("PCACHE_LONG") == "1" else 1))
def test_a_build_beside_itself_is_no_alarm(spec, seed):
    spec.write_text(SPEC + f"seed: {seed + 1}\n")
    done = run("compare", BUILD, BUILD, "--spec", spec, "--rounds", 12, "--most-rounds", 12)
    assert done.returncode in (SAME, CANNOT_TELL), done.stdout + done.stderr
    assert ("cannot tell: the noise is up to" in done.stdout) == (done.returncode == CANNOT_TELL)


@pytest.mark.hang_seconds(900)
def test_a_build_that_is_slower_by_a_tenth_is_found(spec, tmp_path):
    slowed = make_slowed(BUILD, tmp_path / "slowed", 0.1)
    done = run("compare", BUILD, slowed, "--spec", spec, "--most-rounds", 96, timeout=850)
    if done.returncode == CANNOT_TELL:
        pytest.skip("this machine is too noisy to see a tenth: " + done.stdout.splitlines()[-1])
    assert done.returncode == SLOWER, done.stdout + done.stderr
    assert "compare: SLOWER: the only case" in done.stdout


@pytest.mark.hang_seconds(500)
def test_a_build_that_is_slower_by_half_is_found_anywhere(spec, tmp_path):
    slowed = make_slowed(BUILD, tmp_path / "slowed", 0.5)
    done = run("compare", BUILD, slowed, "--spec", spec, "--most-rounds", 48, timeout=450)
    assert done.returncode == SLOWER, done.stdout + done.stderr


@pytest.fixture
def other_build(tmp_path):
    """The same libraries as other files, so that both are loaded."""
    shutil.copytree(BUILD / "lib", tmp_path / "other" / "lib", symlinks=True)
    return tmp_path / "other"


@pytest.mark.parametrize("seed", range(10 if os.environ.get("PCACHE_LONG") == "1" else 2))
def test_hits_of_a_build_beside_itself_are_no_alarm(other_build, seed):
    builds = [BUILD, other_build] if seed % 2 == 0 else [other_build, BUILD]
    done = run("compare", *builds, "--hits")
    assert done.returncode in (SAME, CANNOT_TELL), done.stdout + done.stderr


def test_hits_that_are_slower_by_a_twentieth_are_found(tmp_path):
    slowed = make_slowed(BUILD, tmp_path / "slowed", 0.05)
    done = run("compare", BUILD, slowed, "--hits")
    assert done.returncode == SLOWER, done.stdout + done.stderr
    assert "compare: SLOWER: 4 KiB read hit" in done.stdout
    assert run("compare", slowed, BUILD, "--hits").returncode in (SAME, CANNOT_TELL), "what is faster is no alarm"


@pytest.mark.parametrize("arguments, says", [
    (["compare", "/nowhere"], "/nowhere/run.json: is not there"),
    (["compare", "/nowhere", "/nowhere"], "/nowhere/run.json: is not there"),
    (["compare", BUILD, BUILD, "--threshold", "0"], "expected a percentage"),
    (["compare", BUILD, BUILD, "--rounds", "3"], "expected 9 or more"),
    (["compare", BUILD, BUILD, "--hits", "--rounds", "3"], "expected 9 or more"),
    (["compare", BUILD, BUILD, "--hits", "--spec", "gate"], "--spec with --hits: expected one of them"),
    (["compare", BUILD, BUILD, "--hits", "--output", "/nowhere"], "--output with --hits: expected one of them"),
    (["compare", "/nowhere", "--hits"], "--hits is of two builds, and /nowhere is none"),
    (["compare", BUILD, BUILD, "--spec", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    (["gate"], "--baseline"),
    (["gate", "--baseline", "/nowhere.json"], "/nowhere.json: is not there; --accept REASON makes it"),
    (["gate", "--baseline", "/dev/null", "--only", "("], "`(`: expected a regular expression"),
    (["gate", "--baseline", "/dev/null", "--accept", " "], "--accept: expected why, in words"),
    (["gate", "--baseline", "/dev/null", "--rounds", "0"], "--rounds 0: expected 1 to 1000"),
    (["gate", "--baseline", "/dev"], "/dev"),
    (["gate", "--baseline", "/dev/null"], "/dev/null: "),
    (["gate", "--baseline", "/dev/null", "--build", "/nowhere"], "/nowhere/bin/pcache-microbench: is not there"),
])
def test_wrong_use_is_named(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_gate_of_counts_passes_and_fails(tmp_path):
    baseline = tmp_path / "gate.json"
    only = ["--counts", "--only", "^(store|write_fua)/size:4096/crc:0$", "--baseline", baseline]
    assert run("gate", *only, "--accept", "first").returncode == 0
    accepted = json.loads(baseline.read_text())
    assert accepted["reason"] == "first" and accepted["schema"] == "pcache-gate/1" and len(accepted["counts"]) == 2
    done = run("gate", *only)
    assert done.returncode == 0 and "2 requests, 0 figures worse, 0 better" in done.stdout
    # As if the baseline had been better than this build by a tenth.
    accepted["counts"]["write_fua/size:4096/crc:0"]["instructions"] *= 0.9
    baseline.write_text(json.dumps(accepted))
    done = run("gate", *only)
    assert done.returncode == 1
    assert "gate: WORSE  write_fua/size:4096/crc:0: instructions" in done.stdout and "gate: FAIL" in done.stdout
