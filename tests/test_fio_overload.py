# SPDX-License-Identifier: GPL-2.0-or-later
"""fio writes eight times what the cache holds, over a device of twice its size, and every byte is right.

Two judges. fio's own: its random map writes each block once, all of them are verified, and that `loops` times
over. (With norandommap fio forgets what was overlapped and would verify a tenth; with bsrange and without
verify_fatal it exits with 0 although verification has failed.) And a plain file: the same job with the same
seeds through psync leaves the same bytes, also where writes overlap.

By default each runs with some of the six kinds, at eight times the cache; PCACHE_LONG=1 does 32 and 16 times with all.
"""

import json
import os
import subprocess

import pytest

from fio import FIO, Fio, arguments, environment
from measure.libpcache import MIB
from support import CACHE_BYTES, Pair, patch, peek

LONG = os.environ.get("PCACHE_LONG") == "1"
SIZE = 1024 * MIB
JOBS = 4
ALL_KINDS = [(crc, gc) for crc in (0, 1) for gc in (0, 70, 90)]
VERIFIED_KINDS = ALL_KINDS if LONG else [(0, 0), (1, 70), (0, 90)]
MODES = ("writeback", "writethrough", "writearound", "writeonly", "passthrough")
# mode, data_crc, whether each block is trimmed before it is written
ALL_MODES = [(mode, crc, trims) for mode in MODES for crc in (0, 1) for trims in (False, True)]
MODE_KINDS = ALL_MODES if LONG else [("writethrough", 0, True), ("writearound", 1, False), ("passthrough", 0, False)]
COMPARED_KINDS = ALL_KINDS if LONG else [(0, 70), (1, 0)]
OVERLOAD = dict(rw="randwrite", bsrange="4k-1m", numjobs=JOBS, size=SIZE // JOBS, offset_increment=SIZE // JOBS,
                iodepth=16, fsync=64, randrepeat=1, randseed=20, thread=1)


@pytest.fixture
def big(cache_file, disk):
    """fio over a pair with a backing file of 1 GiB, which is blank."""
    backing = disk / "backing"
    with open(backing, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, SIZE)
    pair = Pair(cache_file, backing)
    yield Fio(pair, disk)
    pair.close_all()


def run(fio, **options):
    """The jobs of a run that succeeded; fio puts a note about verify and numjobs before the JSON."""
    done = fio.start(verify_state_save=0, **options)
    assert done.returncode == 0 and "verify:" not in done.stderr, done.stderr + done.stdout
    jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    assert len(jobs) == options.get("numjobs", 1) and all(job["error"] == 0 for job in jobs)
    return jobs


def total(jobs, direction, field="io_bytes"):
    return sum(job[direction][field] for job in jobs)


def check_backing(pair):
    """Drained, the backing file alone is what was read through the cache before; returns the status before."""
    with pair.open() as cache:
        status = cache.status
        content = [cache.read(off, MIB) for off in range(0, SIZE, MIB)]
        cache.drain()
        assert cache.status["dirty"] == {"ksets": 0, "bytes": 0, "live_bytes": 0}
    same_as(content, pair.backing_path)
    return status


def same_as(content, path):
    with open(path, "rb", buffering=0) as f:
        for number, chunk in enumerate(content):
            assert f.read(MIB) == chunk, f"in MiB {number}"


@pytest.mark.parametrize("data_crc,gc_percent", VERIFIED_KINDS)
def test_verified_under_overload(big, data_crc, gc_percent):
    """Each of four passes writes the whole device and verifies all of it.

    Hazards dirty-tail-ahead-of-disk, no-log-reserve, nobody-wakes."""
    loops = 16 if LONG else 4
    jobs = run(big, **OVERLOAD, loops=loops, verify="crc32c", verify_fatal=1,
               data_crc=data_crc, gc_percent=gc_percent)
    assert total(jobs, "write") == loops * SIZE >= 8 * CACHE_BYTES
    assert total(jobs, "read") == total(jobs, "write"), "not all of it was verified"
    stats = big.stats
    assert stats["events"]["waits_on_full"] > 0, "it was no overload"
    assert stats["requests"]["errors"] == 0 and stats["writeback"]["errors"] == 0
    assert stats["writeback"]["flushes"] <= stats["writeback"]["batches"] + 1, "one may be under way"
    assert check_backing(big.pair)["replay"]["dirty_bytes"] <= CACHE_BYTES


@pytest.mark.parametrize("mode,data_crc,trims", MODE_KINDS)
def test_verified_in_each_mode(big, mode, data_crc, trims):
    """Four times the cache; before the cache is read the backing file alone has all of it, if the mode says so."""
    options = dict(OVERLOAD, loops=2, verify="crc32c", verify_fatal=1, data_crc=data_crc, cache_mode=mode)
    if trims:  # with an offset fio 3.33 trims once and writes nothing: one job
        options.update(rw="randtrimwrite", numjobs=1, size=SIZE, offset_increment=0)
    jobs = run(big, **options)
    assert total(jobs, "write") == 2 * SIZE >= 4 * CACHE_BYTES
    assert total(jobs, "read") == total(jobs, "write"), "not all of it was verified"
    assert total(jobs, "trim") == (total(jobs, "write") if trims else 0)
    stats = big.stats
    assert stats["cache"]["mode"] == mode and stats["requests"]["errors"] == 0 and stats["writeback"]["errors"] == 0
    if mode in ("writethrough", "writearound", "passthrough"):
        assert stats["dirty"]["live_bytes"] == 0
        assert stats["latency"]["write_through"]["count"] == stats["requests"]["writes"]
        with open(big.pair.backing_path, "rb", buffering=0) as f:
            content = [f.read(MIB) for _ in range(SIZE // MIB)]
        with big.pair.open(readonly=1) as cache:
            for number, chunk in enumerate(content):
                assert cache.read(number * MIB, MIB) == chunk, f"in MiB {number}"
    check_backing(big.pair)


@pytest.mark.parametrize("data_crc,gc_percent", COMPARED_KINDS)
def test_same_as_without_a_cache(big, shm, data_crc, gc_percent):
    """Overlapping writes of a job are in order (serialize_overlap), so psync must leave the same bytes."""
    times = 16 if LONG else 8
    options = dict(OVERLOAD, norandommap=True, serialize_overlap=1, refill_buffers=1, scramble_buffers=0,
                   io_size=times * CACHE_BYTES // JOBS)
    jobs = run(big, **options, data_crc=data_crc, gc_percent=gc_percent)
    assert total(jobs, "write") >= times * CACHE_BYTES
    assert big.stats["events"]["waits_on_full"] > 0, "it was no overload"
    check_backing(big.pair)

    plain = shm / "plain"
    with open(plain, "wb") as f:
        f.truncate(SIZE)  # else fio lays it out, with the random numbers meant for the writes
    command = [FIO, "--output-format=json", "--name=job"] + arguments(
        dict(options, ioengine="psync", filename=plain))
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=big.folder,
                          env=environment(), timeout=400)
    reference = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    assert [job["write"]["total_ios"] for job in reference] == [job["write"]["total_ios"] for job in jobs]
    with open(big.pair.backing_path, "rb", buffering=0) as a, open(plain, "rb", buffering=0) as b:
        for number in range(SIZE // MIB):
            assert a.read(MIB) == b.read(MIB), f"in MiB {number}"


@pytest.mark.parametrize("flip", [False, True])
def test_verify_would_notice(fio, pair, flip):
    """The tests above can fail: a bit of what was written back, read through a new cache."""
    options = dict(rw="randwrite", bsrange="4k-1m", size=16 * MIB, iodepth=16, verify="crc32c", verify_fatal=1,
                   randrepeat=1, verify_state_save=0)
    fio.run(**options, do_verify=0, drain=1)
    if flip:
        old = peek(pair.backing_path, 9 * MIB + 1000, 1)
        patch(pair.backing_path, 9 * MIB + 1000, bytes([old[0] ^ 16]))
    with open(pair.cache_path, "r+b") as f:
        f.write(bytes(20 << 10))  # blank again
    done = fio.start(**options, verify_only=True)
    assert (done.returncode != 0) == flip, done.stderr
    assert ("verify" in done.stderr) == flip


def test_drain_at_the_end(fio, pair):
    """drain=1: fio's exit waits until the backing file alone holds everything. Default: it holds nothing yet."""
    options = dict(rw="write", bs="64k", size="4m", buffer_pattern='"abcdefgh"', writeback_interval_ms=3600000)
    before = pair.backing_path.read_bytes()
    fio.run(**options)
    assert pair.backing_path.read_bytes() == before
    assert fio.stats["dirty"]["bytes"] + fio.stats["log"]["open_keys"] > 0
    fio.run(**dict(options, rw="read", size="64k", buffer_pattern=None), drain=1)
    assert pair.backing_path.read_bytes() == b"abcdefgh" * (MIB // 2) + before[4 * MIB:]
