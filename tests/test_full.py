# SPDX-License-Identifier: GPL-2.0-or-later
"""More is written than the cache holds: writes wait for writeback and reclaim, and all of it is there.

writeback_interval_ms is an hour in all of these: nothing but pressure makes room.
"""

import random

import pytest

from ctl import Ctl
from measure.libpcache import FUA, MIB, READ, Request
from support import CACHE_BYTES, PAGE, SECTOR, Shadow, events, prepared, read_all, run_threads, stamp, wait_until

SIZE = 16 * MIB
WRITERS = 8
PREPARED = 24  # different writes of each writer
NEVER = 3_600_000
TINY = 2_000  # each is a barrier, and so a flush of the backing file when it is written back
ALL_KINDS = [(crc, gc) for crc in (0, 1) for gc in (0, 70, 90)]
MIXED = (SECTOR, SECTOR, 3 * SECTOR, PAGE, PAGE, 4 * PAGE, 65536, 69632, 262144, MIB, MIB)


class Overload:
    """Writers, each with a queue and a part of the device, and what they leave."""

    def __init__(self, size=SIZE, seed=0):
        self.size, self.shadow, self.rng = size, Shadow(SIZE), random.Random(seed)
        self.tag, self.over = 1, 0

    def writer(self, cache, number, total, lengths, flags=0, flush_every=0):
        queue, rng, part = cache.new_queue(), random.Random(self.rng.random()), self.size // WRITERS
        extents = []
        for _ in range(PREPARED):
            length = rng.choice(lengths)
            extents.append((number * part + rng.randrange(0, part - length + SECTOR, SECTOR), length))
        requests, tag, order = prepared(extents, self.tag), self.tag, []
        self.tag += PREPARED
        for request in requests:
            request.raw.flags = flags

        def body():
            left = total // WRITERS
            try:
                while left > 0:
                    n = rng.randrange(PREPARED)
                    order.append(n)
                    left -= queue.run(requests[n]).len
                    if flush_every and len(order) % flush_every == 0:
                        queue.flush()
            finally:
                self.over += 1
            self.shadow.did(requests, order, tag)
        return body

    def run(self, cache, total, lengths, others=(), **how):
        self.over = 0
        run_threads(*[self.writer(cache, n, total, lengths, **how) for n in range(WRITERS)], *others)

    @property
    def is_over(self):
        return self.over == WRITERS


def check_all(pair, cache, shadow):
    """Right now, after reopening, and after a drain in the backing file alone."""
    want = shadow.content
    assert read_all(cache) == want
    cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    assert read_all(cache) == want
    cache.drain()
    assert cache.status["dirty"] == {"ksets": 0, "bytes": 0, "live_bytes": 0}
    assert pair.backing_path.read_bytes() == want
    cache.close()
    assert pair.backing_path.read_bytes() == want


@pytest.mark.parametrize("data_crc,gc_percent", ALL_KINDS)
def test_overload_with_1_mib_writes(pair, data_crc, gc_percent):
    """Hazards no-log-reserve, nobody-wakes: eight writers of 1 MiB, four times the cache. The flushes have nearly all
    of it written."""
    cache = pair.open(data_crc=data_crc, gc_percent=gc_percent, writeback_interval_ms=NEVER)
    load = Overload()
    load.run(cache, 4 * CACHE_BYTES, [MIB], flush_every=8)
    cache.flush()  # what open ksets name is not counted as dirty
    status = cache.status
    assert status["requests"]["errors"] == 0 and status["requests"]["waiting_for_space"] == 0
    assert status["events"]["waits_on_full"] > 0
    # A batch may be passed between the two numbers of one status.
    wait_until(lambda: (now := cache.status)["writeback"]["passed_bytes"] + now["dirty"]["bytes"]
               == status["requests"]["write_bytes"] + now["writeback"]["moved_bytes"])
    assert status["segments"]["free"] >= 1, "the log's reserve is gone"
    check_all(pair, cache, load.shadow)


@pytest.mark.parametrize("data_crc,gc_percent", ALL_KINDS)
def test_overload_with_mixed_sizes(pair, data_crc, gc_percent):
    """512 B to 1 MiB with flushes, twice over a life that has ended: the second starts on a full cache."""
    load = Overload(seed=data_crc)
    for _ in range(2):
        cache = pair.open(data_crc=data_crc, gc_percent=gc_percent, writeback_interval_ms=NEVER)
        load.run(cache, CACHE_BYTES, MIXED, flush_every=64)
        assert cache.status["requests"]["errors"] == 0
        assert read_all(cache) == load.shadow.content
        cache.close()
    check_all(pair, pair.open(writeback_interval_ms=NEVER), load.shadow)


@pytest.mark.parametrize("data_crc,gc_percent", ALL_KINDS)
def test_overload_with_tiny_fua_writes(pair, data_crc, gc_percent):
    """Hazard no-log-reserve: data of 512 bytes, each with a kset of its own, must not eat the log's reserve."""
    cache = pair.open(data_crc=data_crc, gc_percent=gc_percent, writeback_interval_ms=NEVER)
    load = Overload(size=12 * MIB)
    load.run(cache, CACHE_BYTES, [MIB])
    want = bytearray(load.shadow.content)
    queues = [cache.new_queue() for _ in range(4)]

    def tiny(n):
        begin, length = 12 * MIB + n * MIB, 512 * 1024
        places = [begin + k * SECTOR % length for k in range(TINY)]
        want[begin:begin + length] = bytes([n + 65]) * length

        def body():
            assert queues[n].write_each(places, bytes([n + 65]) * SECTOR, flags=FUA) == (len(places), 0)
        return body

    log_before = cache.status["log"]["ksets"]
    run_threads(*map(tiny, range(4)))
    assert cache.status["requests"]["fua_writes"] == 4 * TINY
    assert cache.status["log"]["ksets"] > log_before
    load.run(cache, CACHE_BYTES // 4, [MIB])
    want[:12 * MIB] = load.shadow.content[:12 * MIB]
    assert read_all(cache) == bytes(want)
    cache = pair.reopen(cache, writeback_interval_ms=NEVER)
    assert read_all(cache) == bytes(want)
    cache.drain()
    assert pair.backing_path.read_bytes() == bytes(want)


@pytest.mark.parametrize("length", [MIB, 65536, SECTOR * 3])
def test_full_of_open_ksets(pair, length):
    """Hazard no-log-reserve: what fills the cache is named by ksets that are still open: they get closed."""
    cache = pair.open(flush_delay_ms=60000, writeback_interval_ms=NEVER)
    load = Overload()
    load.run(cache, (CACHE_BYTES if length > PAGE else 16 * MIB) * 3 // 2, [length])
    assert cache.status["requests"]["errors"] == 0
    cache.flush()
    assert cache.status["log"]["open_keys"] == 0
    check_all(pair, cache, load.shadow)


def test_flushes_while_writes_wait(pair):
    """A flush is no write: it completes on a full cache, between those that wait."""
    cache = pair.open(gc_percent=90, writeback_interval_ms=NEVER)
    load, queue, seen = Overload(), cache.new_queue(), [0, 0]

    def flusher():
        while not load.is_over:
            waiting = cache.status["requests"]["waiting_for_space"]
            queue.flush()
            seen[0] += 1
            seen[1] += waiting > 0

    load.run(cache, 4 * CACHE_BYTES, [MIB], others=[flusher])
    assert seen[1] > 0, f"{seen[0]} flushes, none while a write waited"
    check_all(pair, cache, load.shadow)


@pytest.mark.parametrize("data_crc", [0, 1])
def test_reads_while_writes_wait(pair, data_crc):
    """Half of the device is overwritten all the time, the other half is read, cold and then cached or not."""
    cache = pair.open(gc_percent=90, data_crc=data_crc, writeback_interval_ms=NEVER)
    load, queue, rng = Overload(size=SIZE // 2), cache.new_queue(), random.Random(1)
    seen = [0, 0]

    def reader():
        request = Request(READ, 0, length=MIB)
        while not load.is_over:
            request.raw.len = SECTOR * rng.choice([1, 8, 64, 512, 2048])
            request.raw.off = rng.randrange(SIZE // 2, SIZE - request.raw.len + SECTOR, SECTOR)
            seen[1] += cache.status["requests"]["waiting_for_space"] > 0
            queue.run(request)
            assert request.map[:request.raw.len] == stamp(request.raw.off, request.raw.len, 0)
            seen[0] += 1

    load.run(cache, 4 * CACHE_BYTES, [MIB], others=[reader])
    assert seen[1] > 0, f"{seen[0]} reads, none while a write waited"
    assert events(cache)["backing_errors"] == 0
    check_all(pair, cache, load.shadow)


def test_no_writer_starves(pair):
    """Hazard last-in-first-out: writers of 1 MiB and of 4 KiB share a full cache; all get on in order of arrival."""
    cache = pair.open(gc_percent=90, writeback_interval_ms=NEVER)
    load = Overload()
    load.run(cache, CACHE_BYTES, [MIB])
    part, counts, stop = SIZE // WRITERS, [0] * WRITERS, []

    def writer(n):
        queue, length = cache.new_queue(), MIB if n % 2 else PAGE
        requests = prepared([(n * part + k * 64 * PAGE, length) for k in range(4)], 1000 * (n + 1))

        def body():
            order = []
            while not stop:
                order.append(counts[n] % 4)
                queue.run(requests[order[-1]])
                counts[n] += 1
                if sum(counts[1::2]) > 4 * CACHE_BYTES // MIB:
                    stop.append(n)
            load.shadow.did(requests, order, 1000 * (n + 1))
        return body

    run_threads(*map(writer, range(WRITERS)))
    # Not equal parts: what is not waiting in the cache waits for a CPU, and the machine has others to serve.
    large = counts[1::2]
    assert min(large) > max(large) / 16, f"of 1 MiB: {large}"
    assert min(counts[::2]) > max(large) / 16, f"of 4 KiB: {counts[::2]}, of 1 MiB: {large}"
    check_all(pair, cache, load.shadow)


def test_many_in_flight_in_one_queue(pair):
    """Writes of one queue that wait together: each is given out once by reap, and none is an error."""
    cache = pair.open(gc_percent=90, writeback_interval_ms=NEVER)
    shadow, queue, in_flight, most = Shadow(SIZE), cache.new_queue(64), set(), 0
    length = SIZE // 64  # no two overlap
    extents = [(n * length, length) for n in range(64)]
    sets = [prepared(extents, tag) for tag in (1000, 2000, 3000)]

    def reap():
        for request in queue.reap(1):
            assert request.result == 0
            in_flight.remove(request.raw.off)

    for n in range(4 * CACHE_BYTES // length):
        request = sets[n // 64 % 3][n % 64]
        while request.raw.off in in_flight:
            reap()
        if queue.submit(request):
            assert request.result == 0
        else:
            in_flight.add(request.raw.off)
        shadow.wrote(request.raw.off, length, 1000 * (n // 64 % 3 + 1) + n % 64)
        assert queue.in_flight == len(in_flight)
        most = max(most, queue.in_flight)
    while in_flight:
        reap()
    assert most > 16, f"at most {most} waited together"
    assert queue.in_flight == 0 and cache.status["requests"]["errors"] == 0
    check_all(pair, cache, shadow)


def test_close_of_a_full_cache_is_no_error(pair):
    """With and without the data of the last second in the log; and it is full again at once."""
    load = Overload()
    for delay in (1, 60000):
        cache = pair.open(gc_percent=90, flush_delay_ms=delay, writeback_interval_ms=NEVER)
        load.run(cache, CACHE_BYTES + CACHE_BYTES // 4, [MIB])
        cache.close()
    check_all(pair, pair.open(writeback_interval_ms=NEVER), load.shadow)


def test_status_of_a_full_cache(pair):
    cache = pair.open(gc_percent=90, writeback_interval_ms=NEVER)
    load, seen = Overload(), []

    def watcher():
        while not load.is_over:
            seen.append(cache.status)

    load.run(cache, 3 * CACHE_BYTES, [MIB], others=[watcher], flush_every=8)
    assert max(s["requests"]["waiting_for_space"] for s in seen) >= 1
    assert max(s["requests"]["waiting_for_space"] for s in seen) <= WRITERS
    assert all(0 <= s["dirty"]["bytes"] <= CACHE_BYTES for s in seen)
    # Not all that fills the cache: writeback begins while some of it is in open ksets, which are not counted.
    assert max(s["dirty"]["bytes"] for s in seen) > CACHE_BYTES // 8, "there was hardly anything to write back"
    for path in [("writeback", "batches"), ("writeback", "ksets"), ("writeback", "keys"), ("writeback", "bytes"),
                 ("writeback", "writes"), ("writeback", "written_bytes"), ("writeback", "flushes"),
                 ("reclaim", "ksets"), ("reclaim", "keys"), ("events", "waits_on_full")]:
        values = [s[path[0]][path[1]] for s in seen]
        assert values == sorted(values) and values[-1] > 0, path
    last = cache.status
    assert last["writeback"]["state"] == "ok" and last["writeback"]["errors"] == 0
    assert last["writeback"]["last_error"] == "" and last["writeback"]["backoff_ms"] == 0
    assert last["latency"]["write_waited"]["count"] == last["events"]["waits_on_full"]
    assert last["writeback"]["written_bytes"] < last["writeback"]["bytes"], "superseded data was written, too"
    assert last["writeback"]["written_bytes"] >= last["writeback"]["writes"] * PAGE * 16, "neighbours were not merged"
    assert last["writeback"]["flushes"] <= last["writeback"]["batches"] + 1, "one may be under way"


def test_a_cache_that_is_full_goes_on_when_it_is_made_larger(pair):
    """Dirty as it is, by pcachectl resize."""
    cache = pair.open(writeback_interval_ms=NEVER)
    load = Overload()
    load.run(cache, CACHE_BYTES, [MIB])
    cache.close()
    Ctl().run("resize", pair.cache_path, "--size", "640M")
    cache = pair.open(cache_size=640 * MIB, writeback_interval_ms=NEVER)
    assert cache.info.segments == 39
    load.run(cache, CACHE_BYTES, [MIB])
    check_all(pair, cache, load.shadow)
