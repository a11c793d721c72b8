# SPDX-License-Identifier: GPL-2.0-or-later
"""bench/limits.py: what it prints and what --out keeps are the same figures; pages in pieces, pages far apart."""

import json
import re
import subprocess
import sys

import pytest

from measure import build_stamp, pcache_sweep
from measure.errors import MeasureError
from measure.libpcache import BUILD, MIB, ROOT
from measure.limits import command, foreground, fragments, keys, record, spread
from measure.limits.rig import Rig, Takes
from test_sweep_stamp import restamp

KEPT = sorted((ROOT / "results" / "limits").glob("*.json"))
PRINTED = re.compile(r"  (.*): (-?[\d.]+) \((-?[\d.]+) to (-?[\d.]+)\), n (\d+)(?:;.*)?")
FIGURE = {"group", "name", "unit", "n", "median", "low", "high", "values"}
UNITS = {"ratio", "bytes", "MiB", "s", "ns"}


def check_figures(content):
    for figure in content["figures"]:
        assert set(figure) == FIGURE and figure["unit"] in UNITS
        assert figure["n"] == len(figure["values"]) > 0
        assert min(figure["values"]) == figure["low"] <= figure["median"] <= figure["high"] == max(figure["values"])


def check_printed(out, content):
    """Line by line: every figure that is printed is in the file, in order, and nothing else is."""
    group, left = None, list(content["figures"])
    for line in out.splitlines():
        if not line.startswith("  "):
            group = line
            continue
        figure, found = left.pop(0), PRINTED.fullmatch(line)
        assert found, line
        assert (group, found[1], found[5]) == (figure["group"], figure["name"], str(figure["n"]))
        assert list(found.groups()[1:4]) == [f"{figure[key]:.2f}" for key in ("median", "low", "high")]
    assert not left


@pytest.fixture
def bench(tmp_path, fresh_cache_file):
    """Over small ranges, two rounds."""
    made = Rig(tmp_path, fresh_cache_file.parent, 2, record.Record())
    made.cache = fresh_cache_file
    return made


def stored(bench, folder):
    bench.record.look_at(BUILD, 2, folder)
    bench.record.store(folder / "out.json")
    return record.load(folder / "out.json")


def test_a_page_is_never_in_more_than_eight_pieces(bench, tmp_path, capsys):
    bench.rounds = 1
    bench.record.begin("fragments")
    fragments.measure(bench, 8 * MIB)
    content = stored(bench, tmp_path)
    check_figures(content)
    check_printed(capsys.readouterr().out, content)
    index = [figure["median"] for figure in content["figures"] if figure["unit"] == "bytes"]
    # Slots of 8 bytes, and for a page in pieces 8 more of them; shards of 576 bytes for 1024 pages.
    assert len(index) == 6 and 8 <= index[0] < 9
    assert index[:5] == sorted(index[:5]) and index[4] < index[0] + 64 + 0.01
    assert index[5] == pytest.approx(index[0])


def test_the_bound_leaves_the_cache_as_it_was(bench):
    bench.cache.write_bytes(bytes(range(256)) * (16 << 10) + b"behind")
    content = bench.cache.read_bytes()
    with bench.lent_cache():
        bench.blank_cache()
        assert bench.cache.read_bytes() == bytes(4 * MIB) + b"behind"
    assert bench.cache.read_bytes() == content


def test_pages_far_apart_cost_no_more_than_a_shard_and_a_page_of_the_directory(bench, tmp_path, capsys):
    bench.record.begin("spread")
    spread.measure(bench, 1 << 12)
    content = stored(bench, tmp_path)
    check_printed(capsys.readouterr().out, content)
    index = [figure["median"] for figure in content["figures"] if "of index" in figure["name"]]
    assert len(index) == 3 and index == sorted(index)
    assert index[0] < 9 and index[2] <= 576 + 64
    assert content["figures"][-1]["name"] == "empty, over 1 PiB, MiB" and content["figures"][-1]["median"] < 4


def test_keys(bench, tmp_path, capsys):
    bench.record.begin("keys")
    keys.measure(bench, 1 << 13)
    content = stored(bench, tmp_path)
    check_figures(content)
    check_printed(capsys.readouterr().out, content)
    assert len(content["figures"]) == 4 and all(0 < figure["low"] for figure in content["figures"])


def test_out_by_the_command_line(tmp_path, monkeypatch, capsys):
    """With the figures of a made-up measurement, and the note that one of the lines has."""
    def measure(rig):
        rig.show("write hits", [0.5, 0.75, 0.625], "; 3 MiB written back meanwhile")
        rig.record.keep("written back meanwhile", [2.0, 3.0, 4.0], "MiB")
    monkeypatch.setattr(foreground, "measure", measure)
    monkeypatch.setattr(foreground, "TAKES", Takes(0))
    out = tmp_path / "limits.json"
    command.main(["foreground", "--rounds=3", f"--dir={tmp_path}", f"--shm={tmp_path}", f"--out={out}"])
    assert capsys.readouterr().out == ("foreground\n  write hits: 0.62 (0.50 to 0.75), n 3; 3 MiB written back "
                                       "meanwhile\n")
    content = record.load(out)
    assert content["rounds"] == 3
    assert content["figures"][0] == {"group": "foreground", "name": "write hits", "unit": "ratio", "n": 3,
                                     "median": 0.625, "low": 0.5, "high": 0.75, "values": [0.5, 0.75, 0.625]}
    assert [figure["unit"] for figure in content["figures"]] == ["ratio", "MiB"]
    assert [path.name for path in tmp_path.iterdir()] == ["limits.json"]


def test_it_says_what_it_measured_as_a_sweep_does(tmp_path):
    kept_facts = record.Record()
    kept_facts.look_at(BUILD, 2, tmp_path)
    content = kept_facts.head
    (kept,) = (ROOT / "results" / "sweeps" / "fast-path").glob("run.json")
    run = json.loads(kept.read_text(encoding="utf-8"))
    assert list(content["host"]) == list(run["host"])
    # The kept one is older than the numbers that tell CPU generations apart.
    new = {"vendor", "family", "model_number", "stepping"}
    assert set(content["host"]["cpu"]) == set(run["host"]["cpu"]) | new
    assert set(content["build"]) - {"source_tree"} == set(run["builds"][0]) - {"label", "dir", "hash", "source_tree"}


def test_libraries_of_several_commits_are_not_measured(tmp_path):
    (tmp_path / "lib").mkdir()
    for name in build_stamp.LIBRARIES:
        (tmp_path / name).write_bytes((BUILD / name).read_bytes())
    restamp(tmp_path / build_stamp.LIBRARIES[0], "1" * 40)
    with pytest.raises(MeasureError, match="of several commits; build it whole"):
        build_stamp.library_facts(tmp_path, pcache_sweep.facts(tmp_path))


@pytest.mark.parametrize("options, says", [
    (["--out=."], "--out .: expected a file in a folder that can be written to"),
    (["--out=nowhere/file"], "--out nowhere/file: expected a file in a folder"),
    (["pieces"], "pieces: expected large, beside, memory, attach, foreground, miss, ahead, fragments, spread, keys"),
])
def test_wrong_use_is_one_line_before_anything_is_measured(options, says, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "bench" / "limits.py", *options], capture_output=True, text=True,
                          cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1] and done.stdout == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "pcache-limits/2"}'])
def test_another_schema_is_refused(tmp_path, content):
    (tmp_path / "limits.json").write_text(content)
    with pytest.raises(MeasureError, match="limits.json: "):
        record.load(tmp_path / "limits.json")


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)
def test_the_kept_figures_are_of_a_known_schema(kept):
    content = record.load(kept)
    assert re.fullmatch("[0-9a-f]{40}", content["build"]["commit"]) and not content["build"]["dirty"]
    check_figures(content)
    assert not re.search('"/[a-z]', kept.read_text(encoding="utf-8")), "the place of a file on one machine"
