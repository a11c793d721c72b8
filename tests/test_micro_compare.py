# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep compare over two files of pcache-microbench; made-up ones, of Google Benchmark's schema."""

import json
import random

import pytest

from test_gate import CANNOT_TELL, SAME, SLOWER, run
from test_verdict_files import read_junit

WRONG = 2


def written(path, benchmarks, commit="0123456789ab", **context):
    """benchmarks: {name: [ns of each repetition]}."""
    lines = []
    for name, times in benchmarks.items():
        lines += [{"name": name, "run_name": name, "run_type": "iteration", "repetitions": len(times),
                   "repetition_index": i, "iterations": 10, "real_time": ns / 1e3, "cpu_time": ns / 1e3,
                   "time_unit": "us"} for i, ns in enumerate(times)]
        lines.append({"name": f"{name}_mean", "run_name": name, "run_type": "aggregate", "aggregate_name": "mean",
                      "iterations": 1, "real_time": 1e9, "cpu_time": 1e9, "time_unit": "us"})
    path.write_text(json.dumps({"context": {"host_name": "h", "num_cpus": 2, "commit": commit, **context},
                                "benchmarks": lines}))
    return path


def times(seed, ns=100.0, n=12, noise=0.01):
    rng = random.Random(seed)
    return [ns * rng.lognormvariate(0, noise) for _ in range(n)]


@pytest.mark.parametrize("second, status, says", [
    ({"w": times(2)}, SAME, "compare: no case is slower by 5 %"),
    ({"w": times(2, 120)}, SLOWER, "compare: SLOWER: w"),
    ({"w": times(2, 80)}, SAME, "compare: no case is slower by 5 %"),
    ({"w": times(2, noise=0.6)}, CANNOT_TELL, "compare: cannot tell: the noise is up to"),
    ({"w": times(2, n=3)}, CANNOT_TELL, "fewer than 9 rounds have both in w; pcache-microbench "
                                        "--benchmark_repetitions=9 --benchmark_enable_random_interleaving=true"),
    ({"w": times(2), "r": times(3)}, CANNOT_TELL, "compare: cannot tell: nothing to compare in r"),
    ({"r": times(3)}, WRONG, "nothing was measured that could be compared"),
])
def test_the_files_are_compared_benchmark_by_benchmark(tmp_path, second, status, says):
    a, b = written(tmp_path / "a", {"w": times(1)}), written(tmp_path / "b", second, commit="ba9876543210")
    done = run("compare", a, b, "--junit", tmp_path / "junit")
    assert done.returncode == status and says in done.stdout + done.stderr, done.stdout + done.stderr
    assert "compare: first 0123456789ab, second ba9876543210" in done.stdout
    found = read_junit((tmp_path / "junit").read_text())[0]
    assert (["Failure"] in found.values()) == (status == SLOWER)


def test_equal_files_are_never_slower(tmp_path):
    names = [f"case {n}" for n in range(100)]
    a = written(tmp_path / "a", {name: times(f"a {name}", noise=0.04) for name in names})
    b = written(tmp_path / "b", {name: times(f"b {name}", noise=0.04) for name in names})
    done = run("compare", a, b)
    assert done.returncode in (SAME, CANNOT_TELL) and "slower" not in done.stdout.replace("no case is slower", "")


def test_the_ratio_is_of_speeds_with_its_interval(tmp_path):
    a, b = written(tmp_path / "a", {"w": times(1)}), written(tmp_path / "b", {"w": times(2, 125)})
    run("compare", a, b, "--json", tmp_path / "json")
    content = json.loads((tmp_path / "json").read_text())
    assert [check["group"] for check in content["checks"]] == ["time", "CPU time"]
    for check in content["checks"]:
        ratio = check["figures"]["ratio"]
        assert ratio["low"] <= 0.8 <= ratio["high"] and ratio["high"] - ratio["low"] < 0.05 and ratio["n"] == 12


def test_what_differs_besides_the_build_is_said(tmp_path):
    a = written(tmp_path / "a", {"w": times(1)})
    b = written(tmp_path / "b", {"w": times(2)}, host_name="another", persist="clwb")
    said = run("compare", a, b).stderr
    assert "not measured in turn" in said and "host_name is h in" in said and "persist is None in" in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"context": {}, "benchmarks": [1]}',
                                     '{"context": {}, "benchmarks": [{"name": "x"}]}', "[" * 100000])
def test_a_file_that_is_none_is_no_verdict(tmp_path, content):
    (tmp_path / "a").write_text(content)
    done = run("compare", tmp_path / "a", written(tmp_path / "b", {"w": times(1)}))
    assert done.returncode == WRONG and len(done.stderr.splitlines()) == 1
    assert "expected what pcache-microbench --benchmark_out=FILE has written" in done.stderr
