# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep export: the JSON that github-action-benchmark and Bencher take."""

import json

import pytest

from test_compare import results, rounds
from test_gate import run
from test_report import KEPT
from test_verdict_files import gate_of  # noqa: F401  pylint: disable=unused-import

WRONG = 2


def exported(form, *paths):
    done = run("export", *paths, "--format", form)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_github_has_one_direction_a_file(tmp_path):
    """An array of objects; name, unit and value are required, range and extra are text."""
    folder = results(tmp_path / "run", {"4k": {"": list(rounds(12, p50=9000))}}, [""])
    bigger, smaller = exported("github-bigger", folder), exported("github-smaller", folder)
    assert [one["name"] for one in bigger] == ["made-up: bs=4k: requests/s"]
    assert [one["name"] for one in smaller] == ["made-up: bs=4k: p50"]
    for one in bigger + smaller:
        assert isinstance(one["value"], float) and all(isinstance(one[key], str) for key in ("unit", "range", "extra"))
        low, high = map(float, one["extra"].split(",")[0].split(" to "))
        assert low <= one["value"] <= high and one["extra"].endswith(", n 12")
        assert float(one["range"].removeprefix("± ")) == pytest.approx((high - low) / 2, rel=0.01)


def test_bencher_has_a_value_between_its_bounds():
    """By its schema: benchmark, measure, and value with lower_value and upper_value; a slug has 64 characters."""
    content = exported("bencher", KEPT)
    assert len(content) > 2 and any("ratio-to-the-bound" in measures for measures in content.values())
    for name, measures in content.items():
        assert len(name) <= 1024 and "throughput" in measures
        for slug, metric in measures.items():
            assert len(slug) <= 64 and slug == slug.lower() and " " not in slug and metric.keys() == {
                "value", "lower_value", "upper_value"}
            assert metric["lower_value"] <= metric["value"] <= metric["upper_value"]


def test_the_verdict_of_gate_is_exported(tmp_path, gate_of):  # noqa: F811
    (tmp_path / "verdict").write_text(json.dumps(gate_of()[1]))
    assert [one["name"] for one in exported("github-bigger", tmp_path / "verdict")] == ["gate: w: ratio to the bound"]
    smaller = {one["name"]: one["value"] for one in exported("github-smaller", tmp_path / "verdict")}
    assert smaller["gate: write: instructions"] == 1000 and len(smaller) == 5


def test_two_builds_are_not_mixed(tmp_path):
    folder = results(tmp_path / "run", {"4k": {"a": list(rounds(12)), "b": list(rounds(12))}})
    done = run("export", folder, "--format", "bencher")
    assert done.returncode == WRONG and "is there twice" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments, says", [
    ([KEPT], "--format"), ([KEPT, "--format", "x"], "--format"), (["/nowhere", "--format", "bencher"], "is not there"),
    (["EMPTY", "--format", "bencher"], "nothing is there for bencher"),
])
def test_wrong_use_is_named(tmp_path, arguments, says):
    empty = results(tmp_path / "run", {"4k": {"": [None]}}, [""])
    done = run("export", *(empty if one == "EMPTY" else one for one in arguments))
    assert done.returncode == WRONG and says in done.stderr and len(done.stderr.splitlines()) == 1
