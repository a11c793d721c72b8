# SPDX-License-Identifier: GPL-2.0-or-later
"""persist=auto: measured once, remembered, said; other methods are taken as they are."""

import json

from libpcache import MIB
from support import stamp

PERSIST_RECORD = 1024
MEASURED = "persist=auto: measured on this memory: 512 B "


def said(cache):
    return [line for _, line in cache.log if line.startswith("persist=auto")]


def test_it_is_measured_once_and_remembered(pair):
    with pair.open() as cache:
        (line,) = said(cache)
        assert line.startswith(MEASURED) and "; 4 KiB " in line and "; 64 KiB " in line
        first = cache.status["cache"]
        assert set(first["persist_ns"]["flushcache"]) == {"512", "4096", "16384", "65536"}
        assert first["persist"] in {*first["persist_ns"], "by size"}
        cache.write(0, stamp(0, MIB, 1))
    with pair.open() as cache:
        assert said(cache) == []
        assert cache.status["cache"] == first
        assert cache.read(0, MIB) == stamp(0, MIB, 1)


def test_damaged_it_is_measured_again(pair):
    with pair.open():
        pass
    with open(pair.cache_path, "r+b") as file:
        file.seek(PERSIST_RECORD + 40)
        file.write(b"\xff" * 8)
    with pair.open() as cache:
        assert len(said(cache)) == 1
    with pair.open() as cache:
        assert said(cache) == []


def test_a_method_that_is_named_is_taken(pair):
    with pair.open(persist="flushcache") as cache:
        assert said(cache) == [] and cache.status["cache"]["persist"] == "flushcache"
        assert "persist_ns" not in cache.status["cache"]


def test_calibrate_says_and_remembers(pair, ctl):
    with pair.open(persist="flushcache") as cache:
        cache.write(0, stamp(0, MIB, 1))
    done = ctl.run("calibrate", pair.cache_path)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ns", "512", "bytes", "4", "KiB", "16", "KiB", "64", "KiB"]
    assert lines[1].startswith("flushcache") and lines[-1].startswith("* persist=auto")
    assert sum(line.count("*") for line in lines[1:-1]) == 4, "one method for each size"
    report = json.loads(ctl.run("calibrate", pair.cache_path, "--json").stdout)
    assert report["remembered"] and set(report["chosen"]) == {"512", "4096", "16384", "65536"}
    with pair.open() as cache:
        assert said(cache) == []
        assert cache.status["cache"]["persist_ns"] == report["ns"]
        assert cache.read(0, MIB) == stamp(0, MIB, 1)


def test_calibrate_of_what_was_never_attached_remembers_nothing(pair, ctl):
    ctl.run("format", pair.cache_path, "--force")
    done = ctl.run("calibrate", pair.cache_path)
    assert "not remembered" in done.stdout
    assert pair.cache_path.read_bytes()[:4096] == bytes(4096)
