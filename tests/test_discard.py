# SPDX-License-Identifier: GPL-2.0-or-later
"""DISCARD and WRITE_ZEROES, by fio, NBD's clients and the library: zeros at once, for good, and holes on the disk."""

import errno
import os
import random
import subprocess
import sys

import pytest

from measure.libpcache import (BUILD, DISCARD, FUA, IO_THREADS, IO_URING, MIB, ROOT, WRITE, WRITE_ZEROES, Cache,
                               Request)
from support import PAGE, SECTOR, libnbd, make_backing, read_all, stamp
from test_nbdkit import content, good, served, tool

SIZE = 16 * MIB


def allocated(path):
    return path.stat().st_blocks * 512


def has_holes(folder):
    """Whether the file system can punch one, and make zeros that keep their room."""
    probe = folder / "probe"
    probe.write_bytes(b"x" * MIB)
    return [not good("sh", "-c", f"fallocate {mode} -n -o 0 -l {MIB} '{probe}' 2>&1 || true")
            for mode in ("--punch-hole", "--zero-range")]


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("io_mode", [IO_URING, IO_THREADS])
def test_a_discard_becomes_a_hole_and_zeros_keep_their_room(cache_file, disk, data_crc, io_mode):
    backing = make_backing(disk / "backing", SIZE)
    punches, zeroes = has_holes(disk)
    with Cache(cache_file, backing, data_crc=data_crc, io_mode=io_mode) as cache:
        cache.write(0, b"w" * SIZE)
        cache.drain()
        before = allocated(backing)
        cache.zero(0, 4 * MIB + PAGE, op=WRITE_ZEROES)
        cache.drain()
        if zeroes:
            assert allocated(backing) == before
        cache.zero(0, SIZE // 2)
        assert allocated(backing) == before, "it is in the cache, so far"
        cache.drain()
        if punches:
            assert allocated(backing) <= before - SIZE // 2 + MIB
        assert read_all(cache) == bytes(SIZE // 2) + b"w" * (SIZE // 2)
        writeback = cache.status["writeback"]
        if punches and zeroes:
            assert writeback["zeroed_bytes"] == 4 * MIB + PAGE and writeback["hole_bytes"] == SIZE // 2
            assert writeback["written_bytes"] == SIZE
    assert backing.read_bytes() == bytes(SIZE // 2) + b"w" * (SIZE // 2)


@pytest.mark.parametrize("data_crc", [0, 1])
def test_what_is_discarded_stays_so(cache_file, disk, data_crc):
    """Over an attach, with older keys of the range in the log: dirty, then with the device's copy."""
    backing = make_backing(disk / "backing", SIZE)
    want = bytearray(stamp(0, SIZE, 1))
    with Cache(cache_file, backing, data_crc=data_crc) as cache:
        cache.write(0, bytes(want))
        for off, length in ((SECTOR, SECTOR), (3 * MIB - PAGE, 2 * MIB), (8 * MIB, 8 * MIB)):
            cache.zero(off, length, flags=FUA)
            want[off:off + length] = bytes(length)
    for drains in (False, True, False):
        with Cache(cache_file, backing) as cache:
            assert read_all(cache) == want
            if drains:
                cache.drain()
                assert read_all(cache) == want
    assert backing.read_bytes() == want
    with Cache(cache_file, backing, readonly=1) as cache:
        assert read_all(cache) == want


def test_all_of_a_device_that_is_much_larger(cache_file, disk):
    """As mkfs does it; as much as the cache's size may be named at a time, the rest waits for the disk."""
    backing = disk / "backing"
    with open(backing, "wb") as f:
        f.truncate(64 << 30)
    ends = (0, (32 << 30) + 3 * PAGE, (64 << 30) - PAGE)
    with Cache(cache_file, backing) as cache:
        for off in ends:
            cache.write(off, b"x" * PAGE)
        cache.zero(0, 64 << 30)
        assert cache.status["index"]["dirty_bytes"] <= (cache.info.segments << 24) + 3 * PAGE
        for off in ends:
            assert cache.read(off, PAGE) == bytes(PAGE)
        cache.write(4 * MIB, b"y" * PAGE)
        cache.drain()
        assert cache.status["index"]["dirty_bytes"] == 0
    assert allocated(backing) <= MIB
    with open(backing, "rb") as f:
        assert f.read(MIB) == bytes(MIB)
        f.seek(4 * MIB)
        assert f.read(PAGE) == b"y" * PAGE


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("killed", [False, True])
def test_more_than_the_cache_holds_is_named_and_not_written_back(cache_file, disk, data_crc, killed):
    """A process that discards as much as may wait and then ends leaves a cache that attaches, checks and exports."""
    backing = disk / "backing"
    with open(backing, "wb") as f:
        f.truncate(4 << 30)
    body = ("import os, sys; from measure.libpcache import Cache\n"
            "c = Cache(sys.argv[1], sys.argv[2], data_crc=int(sys.argv[3]), writeback_interval_ms=3600000)\n"
            "c.write(3 << 30, b'k' * 4096)\n"
            "c.write(0, b'o' * 4096)\n"
            "for n in range(280): c.write(1 << 30 | n << 20, b'd' * (1 << 20))\n"
            "c.zero(0, c.info.segments * (16 << 20) // 8 * 7)\n"
            "c.write(0, b'n' * 4096); c.flush()\n"
            "os.kill(os.getpid(), 9) if sys.argv[4] == '1' else c.close()\n")
    done = subprocess.run([sys.executable, "-c", body, cache_file, backing, str(data_crc), str(int(killed))],
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")}, timeout=60)
    assert done.returncode == (-9 if killed else 0)
    good(BUILD / "bin/pcachectl", "check", cache_file, "--backing", backing)
    good(BUILD / "bin/pcachectl", "export", cache_file, "--backing", backing, "--to", disk / "whole")
    with open(disk / "whole", "rb") as f:
        assert f.read(MIB) == b"n" * PAGE + bytes(MIB - PAGE)
        f.seek(3 << 30)
        assert f.read(PAGE) == b"k" * PAGE
    with Cache(cache_file, backing, writeback_interval_ms=3600000) as cache:
        assert cache.status["index"]["dirty_bytes"] > cache.info.cache_bytes * 5 // 4
        assert cache.read(0, MIB) == b"n" * PAGE + bytes(MIB - PAGE)
        assert cache.read(3 << 30, PAGE) == b"k" * PAGE
        cache.drain()
        assert cache.status["index"]["dirty_bytes"] == 0


def test_nobody_waits_for_a_long_one(cache_file, disk):
    """A discard of a large device goes on in parts; a write that comes later is done at once."""
    backing = disk / "backing"
    with open(backing, "wb") as f:
        f.truncate(1 << 40)
    with Cache(cache_file, backing) as cache:
        long = Request(DISCARD, 0, length=1 << 40)
        assert not cache.queue.submit(long)
        other = cache.new_queue()
        for n in range(64):
            request = Request(WRITE, n * 4 * MIB, b"w" * PAGE)
            assert other.submit(request) and request.result == 0
        cache.queue.cancel()
        assert cache.queue.reap() == [long] and long.result in (0, -errno.ECANCELED)
        assert cache.status["events"]["waits_on_full"] == 0, "none waited for space"


@pytest.mark.parametrize("data_crc", [0, 1])
@pytest.mark.parametrize("order", ["strict", "relaxed"])
def test_fio_verifies_what_it_trims(fio, pair, data_crc, order):
    """Over four times the cache: what is trimmed must read as zeros, and nothing else."""
    os.truncate(pair.backing_path, 2 << 30)
    read = dict(rw="read", bs="256k", iodepth=8, verify="pattern", verify_fatal=1, stonewall=True)
    fio.run(dict(name="write", rw="write", bs="256k", iodepth=8, verify="pattern", verify_pattern="0xa5", do_verify=0),
            dict(name="trim", rw="randtrim", bs="64k", iodepth=16, size="1g", stonewall=True),
            dict(name="zeros", verify_pattern="0x00", size="1g", **read),
            dict(name="kept", verify_pattern="0xa5", offset="1g", size="1g", **read),
            size="2g", data_crc=data_crc, backing_order=order)
    requests = fio.stats["requests"]
    assert requests["discards"] == 16384 and requests["errors"] == 0


def test_fio_trims_and_writes_what_it_has_trimmed(fio):
    job, = fio.run(rw="trimwrite", bs="16k", iodepth=16, size="16m", sync=1)
    assert job["trim"]["total_ios"] == job["write"]["total_ios"] == 1024
    requests = fio.stats["requests"]
    assert requests["discard_bytes"] == requests["write_bytes"] == SIZE


def test_nbd_trims_and_zeros_of_any_length_and_offset(pair, tmp_path):
    """A hole that a client punches arrives as a trim, and its callers rely on zeros, at odd ends, too."""
    nbd = libnbd()
    draw = random.Random(7)
    model = bytearray(pair.backing_path.read_bytes())
    with served(pair, tmp_path) as (uri, _):
        client = nbd.NBD()
        client.connect_uri(uri)
        assert client.can_trim() and client.can_zero() and client.can_fast_zero()
        for _ in range(300):
            off, length = draw.randrange(len(model)), draw.choice([1, 511, 512, 513, 4095, 4096, 70000, 3 << 20])
            length = min(length, len(model) - off)
            fua = draw.choice([0, 0, nbd.CMD_FLAG_FUA])
            what = draw.randrange(4)
            if what == 0:
                data = bytes([draw.randrange(1, 256)]) * length
                client.pwrite(data, off, fua)
            elif what == 1:
                client.trim(length, off, fua)
            else:
                flags = draw.choice([0, nbd.CMD_FLAG_NO_HOLE]) | draw.choice([0, nbd.CMD_FLAG_FAST_ZERO])
                client.zero(length, off, fua | flags)
            model[off:off + length] = data if what == 0 else bytes(length)
            at = max(off - 1000, 0)
            end = min(off + length + 1000, len(model))
            assert client.pread(end - at, at) == model[at:end]
        client.flush()
        client.trim(len(model) - 1, 1)
        assert client.pread(len(model), 0) == model[:1] + bytes(len(model) - 1)
        client.shutdown()
    assert content(pair) == model[:1] + bytes(len(model) - 1)


def test_nbdcopy_leaves_holes(pair, tmp_path):
    """It asks for zeros where its source has none."""
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as f:
        f.truncate(SIZE)
        f.write(b"a" * PAGE)
        f.seek(9 * MIB)
        f.write(b"b" * PAGE)
    with served(pair, tmp_path, "drain=1") as (uri, _):
        good(tool("nbdcopy", "libnbd-bin"), "--flush", sparse, uri)
    assert pair.backing_path.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("op", [DISCARD, WRITE_ZEROES])
def test_a_readonly_cache_refuses(cache_file, disk, op):
    backing = make_backing(disk / "backing", SIZE)
    Cache(cache_file, backing).close()
    with Cache(cache_file, backing, readonly=1) as cache:
        with pytest.raises(OSError, match="Read-only"):
            cache.zero(0, PAGE, op=op)
