# SPDX-License-Identifier: GPL-2.0-or-later
"""pcachectl resize of a cache that is attached: it becomes larger while requests go on, whichever program has it."""

import json
import os
import signal
import subprocess
import threading

import pytest

from ctl import Ctl
from fio import FIO, environment
from measure.libpcache import FUA, MIB
from support import CACHE_BYTES, SEGMENT, SEGMENTS_AT, read_all, run_threads, stamp, wait_until
from test_nbdkit import content, served

NEVER = 3_600_000


def bytes_of(segments):
    return SEGMENTS_AT + segments * SEGMENT


@pytest.fixture
def grows(pair):
    """Its file is as long as the fixture made it afterwards, for the next test."""
    yield pair
    pair.close_all()
    os.truncate(pair.cache_path, CACHE_BYTES)


def total(pair):
    return Ctl().json("status", pair.cache_path)["segments"]["total"]


def writes(pair):
    """Of who has it attached, 0: nobody has."""
    asked = Ctl().call("status", pair.cache_path, "--json")
    return json.loads(asked.stdout).get("requests", {}).get("writes", 0) if asked.returncode == 0 else 0


def sound(pair):
    return Ctl().json("check", pair.cache_path, "--backing", pair.backing_path)["findings"] == []


@pytest.mark.parametrize("crc", [0, 1])
def test_an_attached_cache_becomes_larger(grows, ctl, crc):
    with grows.open(writeback_interval_ms=NEVER, data_crc=crc) as cache:
        cache.write(0, stamp(0, MIB, 1), flags=FUA)
        said = ctl.run("resize", grows.cache_path, "--size", bytes_of(40)).stdout
        assert "40 segments" in said and "was 31" in said and "in use from now on" in said
        st = grows.cache_path.stat()
        assert st.st_size == bytes_of(40) and st.st_blocks * 512 >= bytes_of(40) - CACHE_BYTES
        assert cache.info.segments == cache.status["segments"]["total"] == 40
        assert cache.info.cache_bytes == bytes_of(40)
        assert cache.status["segments"]["free"] > 31
        assert ctl.json("resize", grows.cache_path) == {"segments": 40, "before": 40}
        assert "already, nothing was changed" in ctl.run("resize", grows.cache_path).stdout
        cache.write(MIB, stamp(MIB, MIB, 2), flags=FUA)
        now = read_all(cache)
    assert sound(grows)
    with grows.open() as cache:
        assert cache.info.segments == 40 and read_all(cache) == now
        cache.drain()
    assert grows.backing_path.read_bytes() == now


def test_a_file_that_was_made_longer(grows, ctl):
    with grows.open(writeback_interval_ms=NEVER) as cache:
        os.truncate(grows.cache_path, bytes_of(34) + 100)
        assert ctl.json("resize", grows.cache_path) == {"segments": 34, "before": 31}
        assert grows.cache_path.stat().st_blocks * 512 >= bytes_of(34) - CACHE_BYTES
        os.truncate(grows.cache_path, bytes_of(35) - 1)
        assert ctl.json("resize", grows.cache_path) == {"segments": 34, "before": 34}, "no whole segment more"
        assert cache.info.segments == 34


def test_what_is_refused(grows, ctl):
    with grows.open(writeback_interval_ms=NEVER):
        for size, said in ((bytes_of(32) - 1, "as many as the cache has"), (1 << 50, "address space"),
                           ("490M", "512 MiB or more")):
            assert said in ctl.refused("resize", grows.cache_path, "--size", size), size
        assert grows.cache_path.stat().st_size == CACHE_BYTES and total(grows) == 31
        ctl.run("resize", grows.cache_path, "--size", bytes_of(33))
        line = ctl.refused("resize", grows.cache_path, "--size", "512M")
        assert "has 33 segments" in line and "is not made smaller" in line
    with grows.open(readonly=1):
        assert "readonly=1" in ctl.refused("resize", grows.cache_path, "--size", "1G")


def test_a_full_file_system(small_shm, pair, ctl):
    """It stays as large as it is, and goes on; it grows to what there is room for."""
    folder = small_shm(600)
    pair.cache_path = folder / "cache"
    with pair.open(cache_size=CACHE_BYTES, writeback_interval_ms=NEVER) as cache:
        line = ctl.refused("resize", pair.cache_path, "--size", "2G")
        assert "cannot allocate" in line and pair.cache_path.stat().st_size == CACHE_BYTES
        assert total(pair) == 31
        cache.write(0, stamp(0, MIB, 1), flags=FUA)
        ctl.run("resize", pair.cache_path, "--size", bytes_of(33))
        assert total(pair) == 33 and cache.read(0, MIB) == stamp(0, MIB, 1)
    assert sound(pair)


def test_the_frame_goes_on(grows, ctl):
    """What shares the records with a resize: gc_percent and the mode, before and after."""
    with grows.open(gc_percent=50, writeback_interval_ms=NEVER):
        ctl.run("resize", grows.cache_path, "--size", bytes_of(33))
        ctl.run("set", grows.cache_path, "gc_percent", 33)
        ctl.run("resize", grows.cache_path, "--size", bytes_of(35))
        ctl.run("set", grows.cache_path, "cache_mode", "writethrough")
    with grows.open() as cache:
        assert cache.info.segments == 35 and cache.info.gc_percent == 33
    assert Ctl().json("resize", grows.cache_path, "--size", CACHE_BYTES)["segments"] == 31, "and smaller again, offline"


def test_under_writers_and_readers(grows, ctl):
    """Each overwrites its part of the device, more than the cache holds in all, and reads what it has written."""
    sizes, grown = [32, 33, 36, 48], threading.Event()
    with grows.open(writeback_interval_ms=20) as cache:
        def use(rest):
            round_ = 0
            while not grown.is_set() or round_ < 300:
                off = (4 * round_ + rest) * MIB // 4 % (16 * MIB)
                cache.write(off, stamp(off, MIB // 4, round_))
                assert cache.read(off, MIB // 4) == stamp(off, MIB // 4, round_)
                round_ += 1

        def grow():
            try:
                for segments in sizes:
                    assert ctl.json("resize", grows.cache_path, "--size", bytes_of(segments))["segments"] == segments
            finally:
                grown.set()

        run_threads(lambda: use(0), lambda: use(1), lambda: use(2), grow)
        now = read_all(cache)
        cache.drain()
    assert grows.backing_path.read_bytes() == now and sound(grows)


def test_fio_goes_on(grows, fio, ctl):
    """It verifies what it has written before and since."""
    command = fio.command(rw="randwrite", bs="4k", size="16m", loops=30, iodepth=8, verify="crc32c", verify_fatal=1,
                          writeback_interval_ms=50)
    load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=fio.folder,
                            env=environment())
    wait_until(lambda: load.poll() is not None or writes(grows) > 0)
    for segments in (33, 64):
        said = ctl.run("resize", grows.cache_path, "--size", bytes_of(segments)).stdout
        assert f"{segments} segments" in said and "in use from now on" in said
    out, errors = load.communicate(timeout=300)
    assert load.returncode == 0 and "verify:" not in errors, errors + out
    grows.used = True
    assert total(grows) == 64 and sound(grows)


def test_nbdkit_goes_on(grows, tmp_path, ctl):
    """fio verifies over an export that is made larger meanwhile; the server is killed then."""
    job = ["--ioengine=nbd", "--bs=4k", "--iodepth=8", "--verify=crc32c", "--end_fsync=1", "--name=load",
           "--rw=randwrite", "--size=16m", "--loops=30"]
    with served(grows, tmp_path, killed=True) as (uri, server):
        load = subprocess.Popen([FIO, *job, f"--uri={uri}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, cwd=tmp_path)
        wait_until(lambda: load.poll() is not None or writes(grows) > 0)
        for segments in (32, 40, 64):
            assert ctl.json("resize", grows.cache_path, "--size", bytes_of(segments))["segments"] == segments
        assert load.wait(timeout=300) == 0, load.stdout.read()
        server.send_signal(signal.SIGKILL)
        server.wait()
    assert total(grows) == 64 and sound(grows)
    whole = content(grows)
    with grows.open() as cache:
        assert cache.info.segments == 64
        cache.drain()
    assert grows.backing_path.read_bytes() == whole
