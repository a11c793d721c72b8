# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep facts: of the machine and of a build what run.json says, for those that measure without pcache-sweep."""

import json

from test_sweep import BUILD, ROOT, run

CAME_LATER = {"vendor", "family", "model_number", "stepping"}  # than what is kept
FILES = ["lib/libpcache.so", "lib/libpcache_fio.so", "lib/libpcache_raw.so", "bin/pcache-microbench"]


def facts(*arguments):
    return json.loads(run("facts", *arguments).stdout)


def test_they_are_those_of_run_json(tmp_path):
    found = facts("--build", BUILD, "--backing", tmp_path)
    kept = json.loads((ROOT / "results" / "sweeps" / "fast-path" / "run.json").read_text())
    assert list(found) == ["host", "stamps", "source_tree"]
    assert list(found["host"]) == list(kept["host"])
    assert [key for key in found["host"]["cpu"] if key not in CAME_LATER] == list(kept["host"]["cpu"])
    assert CAME_LATER <= found["host"]["cpu"].keys()
    assert found["host"]["pmem"] == "emulated: a file in memory" and found["host"]["fio"].startswith("fio-")
    assert list(found["stamps"]) == FILES
    assert all(list(stamp) == ["commit", "dirty", "version", "build_type"] for stamp in found["stamps"].values())


def test_a_file_without_a_stamp_is_left_out(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpcache.so").write_bytes((BUILD / FILES[0]).read_bytes())
    (tmp_path / "lib" / "libpcache_fio.so").write_bytes(b"of before there were stamps")
    found = facts("--build", tmp_path)
    assert list(found["stamps"]) == FILES[:1] and found["source_tree"] == ""


def test_without_a_build_it_is_its_own():
    assert facts()["stamps"] == facts("--build", BUILD)["stamps"]


def test_what_is_not_there_is_named(tmp_path):
    for option in ("--build", "--backing"):
        done = run("facts", option, tmp_path / "no", ok=2)
        assert done.stderr == f"pcache-sweep: {tmp_path}/no: is not there\n" and done.stdout == ""
