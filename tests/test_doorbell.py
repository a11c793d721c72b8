# SPDX-License-Identifier: GPL-2.0-or-later
"""The doorbell of a front and pcached: a file that each survives to lose, and without which they look at intervals."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from measure.libpcache import MIB
from support import stamp, wait_until
from test_two_sides import SIZE, sides  # noqa: F401  pylint: disable=unused-import

HOUR = ("--interval-ms", 3600000)


def bells():
    return sorted(pathlib.Path(os.environ["PCACHE_RUNTIME_DIR"]).glob("*.bell"))


def fill(cache, model, count, tag):
    """More than the cache holds, of few ranges."""
    for number in range(count):
        off = number * MIB % SIZE
        data = stamp(off, MIB, tag)
        cache.write(off, data)
        model[off:off + MIB] = data


def written_back(sides, model):
    sides.stop_backend()
    sides.write_back_all()
    assert sides.disk.read_bytes() == model
    sides.check()


@pytest.mark.parametrize("first", ["front", "backend"])
def test_each_rings_for_the_other(sides, first):
    """pcached would look an hour later, and by then no write of the front would have had a place."""
    model = bytearray(sides.disk.read_bytes())
    if first == "backend":
        sides.start_backend("--backing-order", "relaxed", *HOUR)
    with sides.front(writeback_interval_ms=3600000) as cache:
        if first == "front":
            sides.start_backend("--backing-order", "relaxed", *HOUR)
        wait_until(bells)
        assert len(bells()) == 1
        assert oct(bells()[0].stat().st_mode)[-3:] == "600"
        fill(cache, model, 600, 1)
        assert cache.read(0, SIZE) == model
    written_back(sides, model)
    assert bells() == []


def test_what_is_dirty_waits_until_there_is_time(sides):
    """As of a process that does it all: its interval says when, and it is the front's."""
    sides.start_backend(*HOUR)
    wait_until(bells)
    with sides.front(writeback_interval_ms=3600000) as cache:
        cache.write(0, stamp(0, MIB, 1))
        cache.flush()
        # pcached has heard the front now, and the other way round.
        heard = bells()[0]
        wait_until(lambda: int.from_bytes(heard.read_bytes()[1024 + 64:1024 + 72], "little") == 1)
        before = cache.status["dirty"]["live_bytes"]
        cache.write(MIB, stamp(MIB, MIB, 2))
        cache.flush()
        assert cache.status["dirty"]["live_bytes"] == before + MIB
        cache.set("writeback_interval_ms", "50")
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    sides.stop_backend()


@pytest.mark.parametrize("harm", ["removed", "cut", "garbage", "replaced", "made a folder"])
def test_what_becomes_of_the_file_is_no_harm(sides, harm):
    model = bytearray(sides.disk.read_bytes())
    sides.start_backend("--backing-order", "relaxed")
    with sides.front(writeback_interval_ms=200) as cache:
        wait_until(bells)
        fill(cache, model, 300, 1)
        bell = bells()[0]
        if harm == "cut":
            os.truncate(bell, 0)
        elif harm == "garbage":
            bell.write_bytes(os.urandom(4096))
        else:
            bell.unlink()
        if harm == "replaced":
            bell.write_bytes(b"\xff" * 100)
        elif harm == "made a folder":
            bell.mkdir()
        fill(cache, model, 300, 2)
        cache.flush()
        assert cache.read(0, SIZE) == model
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        if harm in ("removed", "cut", "replaced"):
            wait_until(lambda: bells() and bells()[0].stat().st_size == 4096)
    if harm == "made a folder":
        bell.rmdir()
    written_back(sides, model)


FRONT = """\
import sys
sys.path[:0] = sys.argv[1].split(":")
from measure.libpcache import Cache
cache = Cache(sys.argv[2], sys.argv[3], role="front")
cache.write(0, bytes(1 << 20))
cache.flush()
print("flushed", flush=True)
sys.stdin.read()
"""


def test_what_dead_ones_have_left_is_taken_over_or_removed(sides):
    """The page says that a front is there which wants nothing; nobody waits for that one."""
    sides.start_backend()
    front = subprocess.Popen([sys.executable, "-B", "-c", FRONT, ":".join(p for p in sys.path if p), sides.cache_path,
                              sides.server.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert front.stdout.readline() == "flushed\n"
    front.kill()
    front.communicate()
    wait_until(lambda: sides.disk.read_bytes()[:MIB] == bytes(MIB))
    sides.stop_backend(signal.SIGKILL)
    assert len(bells()) == 1
    sides.start_backend()
    wait_until(bells)
    left = bells()
    assert len(left) == 1
    with sides.front(writeback_interval_ms=200) as cache:
        cache.write(0, stamp(0, MIB, 3))
        cache.flush()
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
        sides.stop_backend()
        assert bells() == left  # the front has it still
    assert bells() == []


def test_a_dead_one_of_another_cache_is_removed(sides):
    sides.start_backend()
    wait_until(bells)
    dead = bells()[0].with_name("1-1.bell")
    dead.write_bytes(bytes(4096))
    with sides.front():
        assert not dead.exists()
        assert len(bells()) == 1
    sides.stop_backend()


def test_without_a_runtime_folder_they_look(sides, disk, monkeypatch):
    model = bytearray(sides.disk.read_bytes())
    monkeypatch.setenv("PCACHE_RUNTIME_DIR", str(disk / "none" / "such"))
    sides.start_backend("--backing-order", "relaxed")
    with sides.front() as cache:
        fill(cache, model, 600, 1)
        cache.flush()
        wait_until(lambda: cache.status["dirty"]["live_bytes"] == 0)
    said = [line for line in sides.stop_backend()[1].splitlines() if "it looks for what the front has done" in line]
    assert len(said) == 1
    sides.write_back_all()
    assert sides.disk.read_bytes() == model
