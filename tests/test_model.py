# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache against a byte array: hypothesis looks for a sequence of calls after which they differ.

The default profile is deterministic and takes seconds; PCACHE_HYPOTHESIS=long searches on.
"""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from measure.libpcache import (DISCARD, FUA, IO_AUTO, IO_THREADS, MIB, PREFLUSH, READ, WRITE, WRITE_ZEROES,
                               Cache, Request)
from support import PAGE, RANGE, SECTOR, SEGMENTS_AT, make_backing, patch, read_all, stamp

SIZE = 12 * MIB
QUEUES = 3

# Few places, so that requests meet: round the ranges' boundaries, the device's start and end, mid-page.
PLACES = [0, 13 * SECTOR, RANGE - 4 * PAGE, RANGE, 2 * RANGE - SECTOR, 10 * MIB + 3 * SECTOR,
          SIZE - 8 * PAGE]


@st.composite
def extents(draw):
    place = draw(st.sampled_from(PLACES))
    shift = draw(st.integers(0, 40))
    sectors = draw(st.one_of(st.integers(1, 24), st.sampled_from([1, 2, 8, 9, 64, 257, 2048, 8192])))
    off = min(place + shift * SECTOR, SIZE - SECTOR)
    return off, min(sectors * SECTOR, SIZE - off)


class InFlight:
    """A read that was queued, and for each sector what it may return."""

    def __init__(self, queue, request, want):
        self.queue, self.request = queue, request
        self.off, self.len = request.raw.off, request.len
        self.want = want
        self.newer = {}  # sector's place in the read -> values written since

    def written(self, off, data):
        first, last = max(off, self.off), min(off + len(data), self.off + self.len)
        for at in range(first, last, SECTOR):
            self.newer.setdefault(at - self.off, set()).add(data[at - off:at - off + SECTOR])

    def check(self):
        assert self.request.result == 0
        got = self.request.data
        if got == self.want:
            return
        for at in range(0, self.len, SECTOR):
            sector = got[at:at + SECTOR]
            assert sector == self.want[at:at + SECTOR] or sector in self.newer.get(at, ()), \
                f"read {self.off}+{self.len}: wrong at {self.off + at}"


class CacheMachine(RuleBasedStateMachine):
    cache_path = backing_path = data_crc = io_mode = None

    def __init__(self):
        super().__init__()
        patch(self.cache_path, 0, bytes(SEGMENTS_AT))  # blank
        make_backing(self.backing_path, SIZE)
        self.want = bytearray(stamp(0, SIZE, 0))
        self.tag = 0
        self.in_flight = []
        self.cold = list(range(5 * MIB, 7 * MIB, 64 * 1024))
        self.open(data_crc=self.data_crc)

    def open(self, **options):
        self.cache = Cache(self.cache_path, self.backing_path, io_mode=self.io_mode, **options)
        self.writes_since_open = 0
        self.queues = [self.cache.queue] + [self.cache.new_queue() for _ in range(QUEUES - 1)]

    def expected(self, off, length):
        return bytes(self.want[off:off + length])

    queue = st.integers(0, QUEUES - 1)

    @rule(queue=queue, extent=extents(), flags=st.sampled_from([0, 0, 0, FUA, PREFLUSH, FUA | PREFLUSH]),
          misalign=st.sampled_from([0, 0, 1, 512]))
    def write(self, queue, extent, flags, misalign):
        off, length = extent
        self.tag += 1
        data = stamp(off, length, self.tag)
        self.queues[queue].write(off, data, flags=flags, misalign=misalign)
        self.writes_since_open += 1
        self.want[off:off + length] = data
        for read in self.in_flight:
            read.written(off, data)

    @rule(queue=queue, extent=extents(), op=st.sampled_from([DISCARD, WRITE_ZEROES]),
          flags=st.sampled_from([0, 0, FUA]))
    def zero(self, queue, extent, op, flags):
        off, length = extent
        self.queues[queue].zero(off, length, op=op, flags=flags)
        self.writes_since_open += 1
        self.want[off:off + length] = bytes(length)
        for read in self.in_flight:
            read.written(off, bytes(length))

    @rule(queue=queue, extent=extents())
    def read(self, queue, extent):
        off, length = extent
        assert self.queues[queue].read(off, length) == self.expected(off, length)

    @precondition(lambda self: len(self.in_flight) < 24)
    @rule(queue=queue, extent=extents(), misalign=st.sampled_from([0, 0, 8]))
    def start_read(self, queue, extent, misalign):
        off, length = extent
        request = Request(READ, off, length=length, misalign=misalign)
        read = InFlight(self.queues[queue], request, self.expected(off, length))
        if self.queues[queue].submit(request):
            read.check()
        else:
            self.in_flight.append(read)

    @precondition(lambda self: self.cold and len(self.in_flight) < 24)
    @rule(queue=queue, writer=queue, first=st.integers(0, 30), sectors=st.integers(1, 40))
    def start_cold_read_and_write(self, queue, writer, first, sectors):
        """Of a place that was not read before: the write comes while the fill is on its way."""
        off = self.cold.pop()
        self.start_read(queue, (off, 32 * SECTOR), 0)
        self.write(writer, (off + first * SECTOR, sectors * SECTOR), 0, 0)

    @rule(queue=queue, least=st.integers(0, 3))
    def reap(self, queue, least):
        for request in self.queues[queue].reap(least=least):
            read = next(r for r in self.in_flight if r.request is request)
            self.in_flight.remove(read)
            read.check()

    @rule(queue=queue)
    def flush(self, queue):
        self.queues[queue].flush()

    @rule(extent=extents())
    def refused_write(self, extent):
        off, _ = extent
        request = Request(WRITE, off, bytes(SIZE - off + SECTOR))
        assert self.queues[0].submit(request) and request.result < 0

    def finish_reads(self):
        for queue in self.queues:
            while queue.in_flight:
                for request in queue.reap():
                    read = next(r for r in self.in_flight if r.request is request)
                    self.in_flight.remove(read)
                    read.check()
        assert not self.in_flight

    @precondition(lambda self: self.writes_since_open >= 8)  # opening is dear, and dull after nothing
    @rule()
    def reopen(self):
        self.finish_reads()
        self.cache.close()
        self.open()
        assert self.cache.info.data_crc == self.data_crc

    @rule()
    def read_everything(self):
        assert read_all(self.cache) == bytes(self.want)

    def teardown(self):
        try:
            self.finish_reads()
            assert read_all(self.cache) == bytes(self.want)
        finally:
            self.cache.close()
        with Cache(self.cache_path, self.backing_path) as cache:
            assert read_all(cache) == bytes(self.want), "after reopening"


@pytest.mark.hang_seconds(1200)  # a failure is shrunk, for 300 s at most
@pytest.mark.parametrize("data_crc,io_mode", [(0, IO_AUTO), (1, IO_AUTO), (0, IO_THREADS)])
def test_against_byte_array(cache_file, disk, data_crc, io_mode):
    class Machine(CacheMachine):
        pass
    Machine.cache_path, Machine.backing_path = cache_file, disk / "backing"
    Machine.data_crc, Machine.io_mode = data_crc, io_mode
    run_state_machine_as_test(Machine)
