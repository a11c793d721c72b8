# SPDX-License-Identifier: GPL-2.0-or-later
"""Single requests: what they return, where it comes from, and what is refused."""

import errno
import random

import pytest

from measure.libpcache import (FLUSH, FUA, MIB, PREFLUSH, READ, WRITE, WRITE_ZEROES, IO_THREADS, IO_URING,
                               PcacheError, Request)
from support import PAGE, RANGE, SECTOR, events, make_backing, peek, read_all, stamp


def result_of(queue, request):
    assert queue.submit(request), "was queued"
    return -request.result


def requests(cache):
    return cache.status["requests"]


# ---- Reads: miss, hit, partial ----

@pytest.mark.parametrize("io_mode", [IO_URING, IO_THREADS])
@pytest.mark.parametrize("off,length", [
    (0, SECTOR), (SECTOR, SECTOR), (3 * SECTOR, 5 * SECTOR), (PAGE - SECTOR, 2 * SECTOR),
    (PAGE, PAGE), (7 * SECTOR, 2 * PAGE), (RANGE - SECTOR, 2 * SECTOR), (16 * MIB - SECTOR, SECTOR),
    (0, MIB), (RANGE - 3 * SECTOR, MIB), (SECTOR, 5 * MIB), (0, 16 * MIB)])
def test_read_miss_then_hit(pair, io_mode, off, length):
    cache = pair.open(io_mode=io_mode)
    assert cache.read(off, length) == stamp(off, length, 0)
    assert requests(cache)["read_misses"] == 1
    filled = events(cache)["fill_bytes"]
    assert filled >= length
    again = Request(READ, off, length=length)
    assert cache.queue.submit(again), "a hit is completed inline"
    assert again.result == 0 and again.data == stamp(off, length, 0)
    assert requests(cache)["read_hits"] == 1 and events(cache)["fill_bytes"] == filled


def test_hit_does_not_touch_the_backing_device(cache, backing):
    cache.read(0, MIB)
    with open(backing, "r+b") as f:  # behind the cache's back: what was cached must be served
        f.write(b"x" * (2 * MIB))
    assert cache.read(0, MIB) == stamp(0, MIB, 0)
    assert cache.read(MIB, PAGE) == b"x" * PAGE, "and what was not cached comes from there"


@pytest.mark.parametrize("hit_off,hit_len", [
    (0, PAGE), (2 * PAGE, PAGE), (PAGE + SECTOR, SECTOR), (3 * PAGE, PAGE), (4 * PAGE - SECTOR, SECTOR)])
@pytest.mark.parametrize("by", ["write", "read"])
def test_partial_hit_is_split_and_joined(cache, hit_off, hit_len, by):
    want = bytearray(stamp(0, 4 * PAGE, 0))
    if by == "write":
        want[hit_off:hit_off + hit_len] = stamp(hit_off, hit_len, 7)
        cache.write(hit_off, stamp(hit_off, hit_len, 7))
    else:
        cache.read(hit_off, hit_len)
    assert cache.read(0, 4 * PAGE) == bytes(want)
    assert requests(cache)["read_partial_hits"] == 1
    assert cache.queue.submit(Request(READ, 0, length=4 * PAGE)), "the whole is cached now"


def test_partial_hit_with_many_gaps_over_range_boundaries(cache):
    want = bytearray(stamp(0, 16 * MIB, 0))
    for at in range(SECTOR, 16 * MIB - PAGE, 96 * 1024 + SECTOR):
        cache.write(at, stamp(at, 3 * SECTOR, 1))
        want[at:at + 3 * SECTOR] = stamp(at, 3 * SECTOR, 1)
    assert cache.read(0, 16 * MIB) == bytes(want)
    assert cache.read(0, 16 * MIB) == bytes(want)


# ---- Writes ----

def test_write_is_not_written_through(cache, backing):
    cache.write(0, b"n" * MIB)
    cache.flush()
    assert peek(backing, 0, MIB) == stamp(0, MIB, 0)
    assert cache.read(0, MIB) == b"n" * MIB


FIRST = [(4, 4), (0, 16), (2, 2), (8, 8)]
SECOND = [(4, 4), (0, 16), (5, 2), (2, 4), (6, 4), (4, 2), (6, 2), (1, 14), (0, 4), (8, 4), (3, 1), (7, 1),
          (8, 1)]


@pytest.mark.parametrize("shift", [0, 1, 5])
@pytest.mark.parametrize("base", [0, RANGE - 8 * SECTOR])
def test_overlaps(pair, base, shift):
    """Every way in which a range meets another, in sectors: inside a page, over pages, over ranges."""
    cache = pair.open()
    base += shift * SECTOR
    tag = 0
    for first in FIRST:
        for second in SECOND:
            want = bytearray(stamp(base, 16 * SECTOR, tag))
            cache.write(base, bytes(want))
            for at, n in (first, second):
                tag += 1
                off = base + at * SECTOR
                cache.write(off, stamp(off, n * SECTOR, tag))
                want[at * SECTOR:(at + n) * SECTOR] = stamp(off, n * SECTOR, tag)
            assert cache.read(base, 16 * SECTOR) == bytes(want), f"{second} over {first}"
            tag += 1
    assert pair.reopen(cache).read(base, 16 * SECTOR) == bytes(want)


@pytest.mark.parametrize("data_crc", [0, 1])
def test_random_overwrites(pair, data_crc):
    cache = pair.open(data_crc=data_crc)
    rng = random.Random(5)
    want = bytearray(stamp(0, 16 * MIB, 0))
    for tag in range(1, 1500):
        n = SECTOR * int(2 ** rng.uniform(0, 10))
        off = rng.randrange(0, 8 * MIB - n + SECTOR, SECTOR)
        want[off:off + n] = stamp(off, n, tag)
        cache.write(off, bytes(want[off:off + n]))
        off = rng.randrange(0, 8 * MIB - n + SECTOR, SECTOR)
        assert cache.read(off, n) == bytes(want[off:off + n]), f"read {off}+{n} after write {tag}"
    assert read_all(cache) == bytes(want)
    assert read_all(pair.reopen(cache)) == bytes(want)


@pytest.mark.parametrize("length", [MIB, 4 * MIB, 5 * MIB, 16 * MIB])
@pytest.mark.parametrize("off", [0, SECTOR, RANGE - SECTOR])
def test_large_writes_over_ranges_and_segments(pair, off, length):
    length = min(length, 16 * MIB - off)
    cache = pair.open()
    want = bytearray(stamp(0, 16 * MIB, 0))
    for tag in range(1, 5):  # 4 x 16 MiB: over several 16 MiB segments
        want[off:off + length] = stamp(off, length, tag)
        cache.write(off, bytes(want[off:off + length]))
        assert cache.read(off, length) == bytes(want[off:off + length])
    assert read_all(cache) == bytes(want)
    assert read_all(pair.reopen(cache)) == bytes(want)


def test_write_and_read_zeros(cache):
    cache.write(PAGE, bytes(MIB))
    assert cache.read(0, MIB + 2 * PAGE) == stamp(0, PAGE, 0) + bytes(MIB) + stamp(PAGE + MIB, PAGE, 0)


def test_sparse_backing_reads_zeros(pair):
    with open(pair.backing_path, "r+b") as f:
        f.truncate(0)
        f.truncate(16 * MIB)
    assert read_all(pair.open()) == bytes(16 * MIB)


@pytest.mark.parametrize("io_mode", [IO_URING, IO_THREADS])
@pytest.mark.parametrize("length", [SECTOR, 5 * SECTOR, MIB])
def test_misaligned_buffers(pair, io_mode, length):
    cache = pair.open(io_mode=io_mode)
    for round_, misalign in enumerate([1, 8, 511, 512, 1000]):
        cache.write(PAGE, stamp(PAGE, length, misalign), misalign=misalign)
        assert cache.read(PAGE, length, misalign=misalign) == stamp(PAGE, length, misalign)
        off = (4 + 2 * round_) * MIB + SECTOR  # a miss and the hit after it
        for _ in range(2):
            request = cache.queue.run(Request(READ, off, length=length, misalign=misalign))
            assert request.data == stamp(off, length, 0)
            assert request.map[:misalign] == bytes(misalign), "stored before the buffer"


def test_small_write_of_last_sector_and_whole_device_size(pair, disk):
    pair.backing_path = make_backing(disk / "odd", 7 * MIB + 3 * SECTOR)
    cache = pair.open()
    size = cache.info.logical_bytes
    assert size == 7 * MIB + 3 * SECTOR
    cache.write(size - SECTOR, b"l" * SECTOR)
    assert read_all(cache) == stamp(0, size - SECTOR, 0) + b"l" * SECTOR


# ---- What is refused ----

@pytest.mark.parametrize("op", [READ, WRITE])
@pytest.mark.parametrize("off,length,want", [
    (1, SECTOR, errno.EINVAL), (SECTOR - 1, SECTOR, errno.EINVAL), (0, SECTOR - 1, errno.EINVAL),
    (0, SECTOR + 1, errno.EINVAL), (256, 256, errno.EINVAL), (0, 0, errno.EINVAL),
    (16 * MIB, SECTOR, errno.ENXIO), (16 * MIB - SECTOR, 2 * SECTOR, errno.ENXIO),
    (17 * MIB, SECTOR, errno.ENXIO), (2 ** 64 - SECTOR, SECTOR, errno.ENXIO),
    (2 ** 64 - SECTOR, 2 * SECTOR, errno.ENXIO), (SECTOR, 2 ** 64 - SECTOR, errno.ENXIO)])
def test_bad_ranges_are_refused(cache, op, off, length, want):
    request = Request(op, off, data=b"b" * SECTOR)
    request.raw.len = length
    assert result_of(cache.queue, request) == want
    assert cache.queue.in_flight == 0
    assert requests(cache)["errors"] == 1
    assert read_all(cache) == stamp(0, 16 * MIB, 0), "nothing was written"


@pytest.mark.parametrize("op", [5, 6, 255, 2 ** 32 - 1])
def test_unknown_operation_is_refused(cache, op):
    assert result_of(cache.queue, Request(op, 0, data=b"b" * SECTOR)) == errno.EINVAL


@pytest.mark.parametrize("op", [READ, WRITE])
def test_no_buffer_is_refused(cache, op):
    request = Request(op, 0, data=b"b" * SECTOR)
    request.raw.buf = None
    assert result_of(cache.queue, request) == errno.EINVAL


@pytest.mark.parametrize("flags", [4, 8, 2 ** 31])
def test_unknown_flags_are_refused(cache, flags):
    """A flag of a later version must not be ignored: it may promise something."""
    request = Request(WRITE, 0, data=b"b" * SECTOR, flags=flags)
    assert result_of(cache.queue, request) == errno.EINVAL


def test_flush_ignores_offset_length_and_buffer(cache):
    request = Request(FLUSH, off=12345, length=7)
    request.raw.buf = None
    assert result_of(cache.queue, request) == 0


@pytest.mark.parametrize("depth", [0, 65537, 2 ** 32 - 1])
def test_bad_depth_is_refused(cache, depth):
    with pytest.raises(PcacheError) as refused:
        cache.new_queue(depth)
    assert refused.value.code == errno.EINVAL
    assert "depth" in refused.value.text and str(depth) in refused.value.text


@pytest.mark.parametrize("depth", [1, 65536])
def test_extreme_depths_work(cache, depth):
    queue = cache.new_queue(depth)
    assert queue.read(0, MIB) == stamp(0, MIB, 0)


# ---- Completion ----

def test_writes_and_flushes_complete_inline(cache):
    for flags in (0, FUA, PREFLUSH, FUA | PREFLUSH):
        request = Request(WRITE, 0, b"w" * PAGE, flags=flags)
        assert cache.queue.submit(request) and request.result == 0
    assert cache.queue.submit(Request(FLUSH))
    assert cache.queue.in_flight == 0
    assert cache.queue.reap(least=1, timeout_ns=-1) == [], "nothing is queued: it does not wait"


def test_depth_exhausted_asks_to_reap_first(cache):
    queue = cache.new_queue(4)
    queued = [Request(READ, n * MIB, length=PAGE) for n in range(4)]
    assert not any([queue.submit(r) for r in queued])
    extra = Request(READ, 5 * MIB, length=PAGE)
    with pytest.raises(BlockingIOError):
        queue.submit(extra)
    assert queue.in_flight == 4
    done = queue.reap(least=4)
    assert set(map(id, done)) == set(map(id, queued))
    assert queue.in_flight == 0
    assert not queue.submit(extra)
    assert queue.reap() == [extra] and extra.data == stamp(5 * MIB, PAGE, 0)


def test_reap_honours_min_and_max(cache):
    queue = cache.new_queue(32)
    queued = [Request(READ, n * 64 * 1024, length=PAGE) for n in range(16)]
    assert not any([queue.submit(r) for r in queued])
    seen = queue.reap(least=3, most=5)
    assert 3 <= len(seen) <= 5
    assert queue.in_flight == 16 - len(seen)
    more = queue.reap(least=100, most=7)
    assert len(more) == 7, "a min above max is max"
    seen += more
    rest = 16 - len(seen)
    last = queue.reap(least=64, most=64)
    assert len(last) == rest, "a min above what is queued waits for what is queued"
    seen += last
    assert sorted(r.raw.off for r in seen) == [r.raw.off for r in queued]
    assert all(r.data == stamp(r.raw.off, PAGE, 0) for r in seen)


def test_reap_without_min_does_not_wait(cache):
    request = Request(READ, 0, length=PAGE)
    assert cache.queue.reap(least=0) == []
    assert not cache.queue.submit(request)
    done = []
    while not done:  # a poll makes progress by itself
        done = cache.queue.reap(least=0, timeout_ns=0)
    assert done == [request]


def test_reap_gives_what_completed_first_first(pair):
    """Two reads that depend on each other's order: a join completes not before what it joined."""
    cache = pair.open()
    first, second = Request(READ, 0, length=PAGE), Request(READ, 0, length=PAGE)
    assert not cache.queue.submit(first) and not cache.queue.submit(second)
    done = []
    while len(done) < 2:
        done += cache.queue.reap(least=1, most=1)
    assert events(cache)["fills"] == 1 and events(cache)["fill_joins"] == 1
    assert first.data == second.data == stamp(0, PAGE, 0)


def test_hits_pass_while_a_miss_is_outstanding(cache):
    cache.write(0, b"h" * PAGE)
    miss = Request(READ, 8 * MIB, length=MIB)
    assert not cache.queue.submit(miss)
    hit = Request(READ, 0, length=PAGE)
    assert cache.queue.submit(hit) and hit.data == b"h" * PAGE
    assert cache.queue.reap() == [miss] and miss.data == stamp(8 * MIB, MIB, 0)


def test_destroy_waits_for_what_is_in_flight(cache):
    queue = cache.new_queue(64)
    queued = [Request(READ, n * 128 * 1024, length=64 * 1024) for n in range(64)]
    for request in queued:
        queue.submit(request)
    queue.close()
    assert all(r.data == stamp(r.raw.off, 64 * 1024, 0) for r in queued)


def test_write_during_a_fill_wins(cache):
    """Hazard fill-over-newer: the fill must not put the older data over the newer."""
    for round_ in range(200):
        off = round_ * 64 * 1024
        miss = Request(READ, off, length=8 * PAGE)
        assert not cache.queue.submit(miss)
        cache.write(off + PAGE, stamp(off + PAGE, 2 * PAGE, 9))
        cache.queue.reap()
        want = bytearray(stamp(off, 8 * PAGE, 0))
        want[PAGE:3 * PAGE] = stamp(off + PAGE, 2 * PAGE, 9)
        assert cache.read(off, 8 * PAGE) == bytes(want)
        got, old = miss.data, stamp(off, 8 * PAGE, 0)
        for s in range(0, 8 * PAGE, SECTOR):  # what the read itself got: old or new
            assert got[s:s + SECTOR] in (old[s:s + SECTOR], bytes(want[s:s + SECTOR]))


# ---- Counters ----

def test_counters(cache):
    cache.write(0, b"c" * PAGE)
    cache.write(0, b"c" * PAGE, flags=FUA)
    cache.read(0, PAGE)
    cache.read(0, 2 * PAGE)
    cache.read(MIB, PAGE)
    cache.flush()
    cache.zero(MIB, MIB)
    cache.zero(0, SECTOR, op=WRITE_ZEROES)
    got = requests(cache)
    assert got == {"writes": 2, "write_bytes": 2 * PAGE, "reads": 3, "read_bytes": 4 * PAGE,
                   "read_hits": 1, "read_partial_hits": 1, "read_misses": 1, "flushes": 1,
                   "fua_writes": 1, "discards": 1, "discard_bytes": MIB, "write_zeroes": 1,
                   "write_zeroes_bytes": SECTOR, "errors": 0, "waiting_for_space": 0, "waiting_for_device": 0}


@pytest.mark.damages_image
def test_backing_read_error_reaches_the_request(cache, backing):
    """The backing file cut short under the cache: reads of what is gone fail, the rest goes on."""
    cache.write(12 * MIB, b"k" * PAGE)
    with open(backing, "r+b") as f:
        f.truncate(8 * MIB)
    request = Request(READ, 15 * MIB, length=PAGE)
    assert not cache.queue.submit(request)
    assert cache.queue.reap() == [request]
    assert -request.result == errno.EIO
    assert events(cache)["backing_errors"] == 1
    assert cache.read(0, PAGE) == stamp(0, PAGE, 0)
    assert cache.read(12 * MIB, PAGE) == b"k" * PAGE
