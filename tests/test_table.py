# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep table: B against A for two values of a parameter, over made-up results."""

import csv
import io
import json

import pytest

from test_compare import results, rounds
from test_gate import run
from test_verdict_files import cells_of, rendered

WRONG = 2
BY_BS = {"4k": {"": list(rounds(12))}, "8k": {"": list(rounds(12, 0.8, seed=2))}, "64k": {"": list(rounds(12, 2.0))}}


@pytest.fixture
def folder(tmp_path):
    return results(tmp_path / "run", BY_BS, [""])


def rows_of(done):
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_the_ratio_is_of_the_rounds_and_has_its_interval(folder):
    (row,) = rows_of(run("table", folder, "--of", "bs", "4k", "8k", "--format", "csv"))
    ratio, low, high = (float(row[key]) for key in ("ratio", "low", "high"))
    assert low <= ratio <= high and abs(ratio - 0.8) < 0.02 and high - low < 0.05
    assert (row["n"], row["verdict"], row["metric"]) == ("12", "slower", "requests/s")
    (back,) = rows_of(run("table", folder, "--of", "bs", "8KiB", "4096", "--format", "csv"))
    assert float(back["ratio"]) == pytest.approx(1 / ratio, rel=0.01) and back["verdict"] == "faster"


def test_the_three_formats_say_the_same(folder, tmp_path):
    (row,) = rows_of(run("table", folder, "--of", "bs", "4k", "64k", "--format", "csv"))
    text = run("table", folder, "--of", "bs", "4k", "64k").stdout
    file = tmp_path / "table"
    assert run("table", folder, "--of", "bs", "4k", "64k", "--format", "markdown", "--output", file).stdout == ""
    (cells,) = cells_of(rendered(file.read_text()))
    said = [cell.split(">")[-1] for cell in cells]
    ratio = f"{float(row['ratio']):.3f}"
    assert len(text.splitlines()) == 2 and ratio in text and ratio == said[3]
    assert said[-1] == "faster" and text.rstrip().endswith("faster")


def test_builds_are_a_parameter_and_two_values_need_no_names(tmp_path):
    two = results(tmp_path / "run", {"4k": {"a": list(rounds(12)), "b": list(rounds(12, 0.7, seed=3))}})
    (row,) = rows_of(run("table", two, "--of", "build", "--format", "csv"))
    assert (row["a"], row["b"], row["verdict"]) == ("a", "b", "slower")


def test_cases_are_paired_by_what_both_have(tmp_path):
    """A bound has no data_crc: each of the cache's cases is beside the bound of its size."""
    cases = {f"{n}": {"": list(rounds(12, seed=n))} for n in range(4)}
    made = results(tmp_path / "run", cases, [""])
    info = json.loads((made / "run.json").read_text())
    info["axes"] = ["engine", "bs", "data_crc"]
    values = [{"engine": "bound", "bs": "4k"}, {"engine": "bound", "bs": "8k"},
              {"engine": "pcache", "bs": "4k", "data_crc": "0"}, {"engine": "pcache", "bs": "4k", "data_crc": "1"}]
    info["cases"] = [{"id": str(n), "values": one} for n, one in enumerate(values)]
    (made / "run.json").write_text(json.dumps(info))
    rows = rows_of(run("table", made, "--of", "engine", "bound", "pcache", "--format", "csv"))
    assert [row["case"] for row in rows] == ["bs=4k data_crc=0 of pcache", "bs=4k data_crc=1 of pcache"]


def test_of_a_latency_more_is_slower_and_few_rounds_are_not_judged(tmp_path):
    def with_p50(p50, n=12):
        return [m | {"read": {"lat_ns": {"p50": p50}}} for m in rounds(n)]
    made = results(tmp_path / "run", {"4k": {"": with_p50(100)}, "8k": {"": with_p50(200)},
                                      "16k": {"": with_p50(1, 5)}}, [""])
    (row,) = rows_of(run("table", made, "--of", "bs", "4k", "8k", "--metric", "p50", "--format", "csv"))
    assert float(row["ratio"]) == 2 and row["verdict"] == "slower"
    (row,) = rows_of(run("table", made, "--of", "bs", "4k", "16k", "--format", "csv"))
    assert (row["n"], row["verdict"]) == ("5", "cannot tell: 5 of 9 rounds")


@pytest.mark.parametrize("options, says", [
    (["--of", "bs"], "bs has 3 values (4k, 8k, 64k); name two: --of bs A B"),
    (["--of", "bs", "4k", "16k"], "bs is never 16k; there are 4k, 8k, 64k"),
    (["--of", "bs", "4k", "4096"], "expected two values that differ"),
    (["--of", "bs", "4k"], "expected a parameter, or one and two of its values"),
    (["--of", "color", "a", "b"], "has no parameter color; its cases differ in bs"),
    (["--of", "bs", "4k", "8k", "--metric", "p42"], "--metric p42: expected requests/s, MiB/s, mean, p50"),
    (["--of", "bs", "4k", "8k", "--metric", "p99"], "no round has p99 of both 4k and 8k"),
    (["--of", "bs", "4k", "8k", "--threshold", "nan"], "--threshold nan: expected a percentage"),
])
def test_what_cannot_be_answered_is_named(folder, options, says):
    done = run("table", folder, *options)
    assert done.returncode == WRONG and says in done.stderr and len(done.stderr.splitlines()) == 1
