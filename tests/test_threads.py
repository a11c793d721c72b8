# SPDX-License-Identifier: GPL-2.0-or-later
"""Several threads, each with a queue of its own (ctypes lets go of the GIL during a call)."""

import random
import threading

import pytest

from measure.libpcache import FUA, IO_AUTO, IO_THREADS, MIB, READ, Request
from support import PAGE, RANGE, SECTOR, events, read_all, run_threads, stamp, tag_of

IO_MODES = pytest.mark.parametrize("io_mode", [IO_AUTO, IO_THREADS])


@IO_MODES
@pytest.mark.parametrize("data_crc", [0, 1])
def test_disjoint_ranges(pair, io_mode, data_crc):
    """Each thread owns every fourth 64 KiB of the device, so all share 4 MiB ranges."""
    cache = pair.open(io_mode=io_mode, data_crc=data_crc)
    want = bytearray(stamp(0, 16 * MIB, 0))
    chunk, n = 64 << 10, 4

    def worker(number):
        queue, rng = cache.new_queue(), random.Random(number)

        def body():
            for i in range(250):
                base = (rng.randrange(16 * MIB // chunk // n) * n + number - 1) * chunk
                length = SECTOR * rng.choice([1, 3, 8, 24, 64])
                off = base + rng.randrange(0, chunk - length + SECTOR, SECTOR)
                data = stamp(off, length, number << 32 | i)
                queue.write(off, data, flags=FUA if i % 16 == 0 else 0)
                want[off:off + length] = data
                if i % 50 == 0:
                    queue.flush()
                off = base + rng.randrange(0, chunk - length + SECTOR, SECTOR)
                assert queue.read(off, length) == bytes(want[off:off + length])
        return body

    run_threads(*[worker(number) for number in range(1, n + 1)])
    assert read_all(cache) == bytes(want)
    assert read_all(pair.reopen(cache)) == bytes(want)


def test_shared_range_readers_never_go_back(pair):
    """One writer counts up in every sector; readers see whole sectors, and each sector only grow."""
    cache = pair.open()
    places = [0, PAGE - SECTOR, RANGE - 2 * SECTOR, 9 * MIB]
    length, last = 4 * SECTOR, 400
    done = threading.Event()
    reads = []

    def writer():
        try:
            queue = cache.queue
            for tag in range(1, last + 1):
                for place in places:
                    queue.write(place, stamp(place, length, tag))
        finally:
            done.set()

    def reader(queue):
        def body():
            seen, count, finished = {}, 0, False
            while not finished:
                finished = done.is_set()  # one more round after the last write
                for place in places:
                    data = queue.read(place, length)
                    for at in range(0, length, SECTOR):
                        tag = tag_of(data[at:at + SECTOR], (place + at) // SECTOR)
                        assert tag >= seen.get(place + at, 0), f"{place + at} went back to {tag}"
                        seen[place + at] = tag
                count += 1
            assert all(tag == last for tag in seen.values())
            reads.append(count)
        return body

    run_threads(writer, *[reader(cache.new_queue()) for _ in range(3)])
    assert len(reads) == 3


def test_writers_of_one_range_leave_whole_writes(pair):
    """Two writers of the same range: afterwards every sector is one's or the other's, reopened too."""
    cache = pair.open()
    length = 8 * PAGE

    def writer(number, queue):
        def body():
            for i in range(300):
                queue.write(RANGE - 4 * PAGE, stamp(RANGE - 4 * PAGE, length, number << 32 | i))
        return body

    run_threads(*[writer(n, cache.new_queue()) for n in (1, 2, 3)])
    got = cache.read(RANGE - 4 * PAGE, length)
    for at in range(0, length, SECTOR):
        tag = tag_of(got[at:at + SECTOR], (RANGE - 4 * PAGE + at) // SECTOR)
        assert tag & 0xffffffff == 299, "the last write of one of them"
    assert pair.reopen(cache).read(RANGE - 4 * PAGE, length) == got, "the log's order is the index's"


# ---- Fills ----

@IO_MODES
def test_one_gap_is_fetched_once(pair, io_mode):
    """Queues that read one gap: one fill, the others join it, all get the data."""
    cache = pair.open(io_mode=io_mode)
    queues = [cache.new_queue() for _ in range(6)]
    for round_ in range(30):
        off = round_ * 256 * 1024
        reads = [Request(READ, off, length=128 * 1024) for _ in queues]
        before = events(cache)
        inline = [queue.submit(read) for queue, read in zip(queues, reads)]
        for queue, read, done in reversed(list(zip(queues, reads, inline))):
            if not done:
                assert queue.reap() == [read]
            assert read.result == 0 and read.data == stamp(off, 128 * 1024, 0)
        after = events(cache)
        assert after["fills"] - before["fills"] == 1
        assert after["fill_joins"] - before["fill_joins"] == len(queues) - 1 - sum(inline)
        assert after["fill_bytes"] - before["fill_bytes"] == 128 * 1024
    assert events(cache)["fill_joins"] > 0, "no read ever joined: the test shows nothing"


@IO_MODES
def test_one_gap_is_fetched_once_by_threads(pair, io_mode):
    cache = pair.open(io_mode=io_mode)
    step, n = 32 * 1024, 4
    order = list(range(0, 16 * MIB, step))

    def reader(queue):
        def body():
            for off in order:
                assert queue.read(off, step) == stamp_all[off:off + step]
        return body

    stamp_all = stamp(0, 16 * MIB, 0)
    run_threads(*[reader(cache.new_queue()) for _ in range(n)])
    got = events(cache)
    assert got["fills"] == len(order) and got["fill_bytes"] == 16 * MIB


def test_part_of_a_fill_is_joined(pair):
    """A gap that is partly on its way: only the rest is fetched."""
    cache = pair.open()
    other = cache.new_queue()
    first = Request(READ, 4 * PAGE, length=4 * PAGE)
    second = Request(READ, 2 * PAGE, length=8 * PAGE)
    assert not cache.queue.submit(first)
    assert not other.submit(second)
    assert other.reap() == [second] and second.data == stamp(2 * PAGE, 8 * PAGE, 0)
    assert cache.queue.reap() == [first] and first.data == stamp(4 * PAGE, 4 * PAGE, 0)
    assert events(cache)["fill_bytes"] == 8 * PAGE
    assert events(cache)["fill_joins"] == 1


@pytest.mark.parametrize("off,length", [(6, 2), (5, 1), (7, 4), (2, 4), (4, 4), (3, 6)])
def test_join_of_any_part_of_a_fill(pair, off, length):
    """A read that meets a fill of pages 4..7 at its start, middle or end, or surrounds it."""
    cache = pair.open()
    first = Request(READ, 4 * PAGE, length=4 * PAGE)
    second = Request(READ, off * PAGE + SECTOR, length=length * PAGE - SECTOR)
    assert not cache.queue.submit(first)
    assert not cache.queue.submit(second)
    while cache.queue.in_flight:
        cache.queue.reap()
    assert second.data == stamp(off * PAGE + SECTOR, length * PAGE - SECTOR, 0)
    assert first.data == stamp(4 * PAGE, 4 * PAGE, 0)
    assert cache.read(0, 16 * PAGE) == stamp(0, 16 * PAGE, 0)
    assert events(cache)["fill_joins"] == 1


@IO_MODES
def test_owner_that_never_reaps_blocks_nobody(pair, io_mode):
    """Reads that joined another queue's fill complete although that queue's thread never comes back."""
    cache = pair.open(io_mode=io_mode)
    idle = cache.new_queue()
    for round_ in range(20):
        off = round_ * 64 * 1024
        owner = Request(READ, off, length=PAGE)
        assert not idle.submit(owner)
        joined = Request(READ, off, length=PAGE)
        if not cache.queue.submit(joined):
            assert cache.queue.reap(least=1, timeout_ns=-1) == [joined]
        assert joined.result == 0 and joined.data == stamp(off, PAGE, 0)
    # Nor does it keep a write, a flush, or a read of the same place.
    cache.write(0, b"w" * PAGE, flags=FUA)
    cache.flush()
    assert cache.read(0, PAGE) == b"w" * PAGE
    assert len(idle.reap(least=20)) == 20


@IO_MODES
def test_owner_that_never_reaps_blocks_no_thread(pair, io_mode):
    cache = pair.open(io_mode=io_mode)
    idle = cache.new_queue()
    for n in range(60):
        idle.submit(Request(READ, n * 64 * 1024, length=64 * 1024))

    def reader(queue):
        def body():
            for n in range(60):
                assert queue.read(n * 64 * 1024, PAGE) == stamp(n * 64 * 1024, PAGE, 0)
        return body

    run_threads(*[reader(cache.new_queue()) for _ in range(3)])
    assert idle.in_flight == 60


def test_owner_is_destroyed_while_others_wait(pair):
    cache = pair.open()
    for round_ in range(20):
        off = round_ * 128 * 1024
        owner = cache.new_queue()
        owner.submit(Request(READ, off, length=64 * 1024))
        joined = Request(READ, off, length=64 * 1024)
        inline = cache.queue.submit(joined)
        owner.close()
        if not inline:
            assert cache.queue.reap() == [joined]
        assert joined.data == stamp(off, 64 * 1024, 0)


@IO_MODES
def test_writes_race_with_fills(pair, io_mode):
    """Hazard fill-over-newer, with threads: a cold read and a write of the same place, many times."""
    cache = pair.open(io_mode=io_mode)
    step, n = 16 * 1024, 16 * MIB // (16 * 1024)
    reader_queue, writer_queue = cache.new_queue(), cache.new_queue()

    def check(cache):
        for off in range(0, 16 * MIB, step):
            want = stamp(off, SECTOR, 0) + stamp(off + SECTOR, PAGE, 1)
            assert cache.read(off, PAGE + SECTOR) == want, f"at {off}"

    def reader():
        pending = []
        for i in range(n):
            request = Request(READ, i * step, length=2 * PAGE)
            if not reader_queue.submit(request):
                pending.append(request)
            if len(pending) > 16:
                for done in reader_queue.reap(least=8):
                    pending.remove(done)
        while pending:
            for done in reader_queue.reap():
                pending.remove(done)

    def writer():
        for i in range(n):
            writer_queue.write(i * step + SECTOR, stamp(i * step + SECTOR, PAGE, 1))

    run_threads(reader, writer)
    check(cache)
    check(pair.reopen(cache))


def test_queues_come_and_go(pair):
    """Threads create, use and destroy queues while others work; counters of gone queues are kept."""
    cache = pair.open()

    def worker(number):
        def body():
            for i in range(25):
                queue = cache.new_queue(depth=4)
                off = (number * 25 + i) * PAGE
                queue.write(off, stamp(off, PAGE, number))
                assert queue.read(off, PAGE) == stamp(off, PAGE, number)
                queue.read(8 * MIB + off, PAGE)
                queue.close()
        return body

    run_threads(*[worker(n) for n in range(1, 5)])
    got = cache.status["requests"]
    assert (got["writes"], got["reads"], got["read_misses"]) == (100, 200, 100)


def test_status_while_others_work(pair):
    cache = pair.open()
    stop = threading.Event()

    def worker(queue):
        def body():
            try:
                for i in range(3000):
                    queue.write(i % 1000 * PAGE, b"s" * SECTOR)
            finally:
                stop.set()
        return body

    def watcher():
        last = 0
        while not stop.is_set():
            now = cache.status["requests"]["writes"]
            assert now >= last
            last = now
            assert cache.status_line.split()[2] == "pcache"

    run_threads(watcher, worker(cache.new_queue()))
    assert cache.status["requests"]["writes"] == 3000
