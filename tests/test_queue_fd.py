# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache_queue_fd(): queues served by an epoll loop that waits for nothing else."""

import errno
import os
import random
import select
import threading

import pytest

from measure.libpcache import FUA, IO_THREADS, IO_URING, LIB, MIB, READ, WRITE, PcacheError, Request
from support import PAGE, stamp
from test_fork import in_child

SECONDS = 60  # until a completion that has not shown is lost


def readable(fd, seconds=0):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Loop:
    """An event loop over queues: each is reaped when its descriptor is readable, and then alone."""

    def __init__(self, *queues):
        self.epoll = select.epoll()
        self.queues = {queue.fd: queue for queue in queues}
        for fd in self.queues:
            self.epoll.register(fd, select.EPOLLIN)

    def serve(self, expected):
        """What has completed, once so many have."""
        done = []
        while len(done) < expected:
            ready = self.epoll.poll(SECONDS)
            assert ready, f"a wakeup was lost: {len(done)} of {expected} came"
            for fd, _events in ready:
                done += self.queues[fd].reap(0, 64, 0)
        return done

    def close(self):
        self.epoll.close()


def sparse(path, size):
    path.touch()
    os.truncate(path, size)
    return path


def quiet(queue):
    return queue.in_flight == 0 and not readable(queue.fd)


@pytest.fixture(params=[IO_URING, IO_THREADS], ids=["io_uring", "threads"])
def opened(request, pair):
    try:
        return pair.open(io_mode=request.param)
    except PcacheError as error:
        assert request.param == IO_URING
        pytest.skip(error.text)


def test_it_is_the_same_one_and_what_completes_at_once_does_not_show(opened):
    queue = opened.queue
    fd = queue.fd
    assert queue.fd == fd and not readable(fd)
    queue.write(0, b"h" * PAGE)
    queue.write(PAGE, b"h" * PAGE, flags=FUA)
    queue.flush()
    assert queue.read(0, PAGE) == b"h" * PAGE
    assert not readable(fd)


def test_hits_misses_and_writes_in_many_rounds(opened):
    """No wakeup is lost, and none is left over, however requests fall together."""
    rng = random.Random(1)
    queue = opened.queue
    loop = Loop(queue)
    tags = {}
    for _ in range(600):
        requests = []
        for place in rng.sample(range(16 * MIB // PAGE), rng.randrange(1, 8)):
            off = place * PAGE
            if rng.random() < 0.3:
                tags[off] = tags.get(off, 0) + 1
                requests.append(Request(WRITE, off, stamp(off, PAGE, tags[off])))
            else:
                requests.append(Request(READ, off, length=PAGE))
        queued = [request for request in requests if not queue.submit(request)]
        assert {id(one) for one in loop.serve(len(queued))} == {id(one) for one in queued}
        assert quiet(queue)
        for request in requests:
            assert request.result == 0
            assert request.data == stamp(request.raw.off, PAGE, tags.get(request.raw.off, 0))
    assert opened.status["requests"]["read_misses"] > 100 and opened.status["requests"]["read_hits"] > 100
    loop.close()


def test_two_queues_whose_reads_join_each_other(opened):
    """One loop serves both, or another thread one of them: neither depends on who polls first."""
    queues = [opened.queue, opened.new_queue()]
    loop = Loop(*queues)
    for round_ in range(16 * MIB // 65536):
        queued = []
        for queue in (queues if round_ % 2 else reversed(queues)):
            request = Request(READ, round_ * 65536, length=65536)
            if not queue.submit(request):
                queued.append(request)
        loop.serve(len(queued))
        assert all(quiet(queue) for queue in queues)
    assert opened.status["events"]["fill_joins"] > 0
    loop.close()


def test_a_joined_read_does_not_wait_for_an_idle_queue(opened):
    idle, queue = opened.new_queue(), opened.queue
    loop = Loop(queue)
    for at in range(64):
        first, second = (Request(READ, at * 65536, length=65536) for _ in range(2))
        assert not idle.submit(first)
        loop.serve(0 if queue.submit(second) else 1)
        assert second.data == stamp(at * 65536, 65536, 0)
        while idle.in_flight:
            idle.reap(1)
    assert quiet(queue)
    loop.close()


def test_a_long_read_of_more_gaps_than_the_queue_reads_at_a_time(opened):
    queue = opened.new_queue(2)
    for off in range(0, MIB, 1024):
        queue.write(off, stamp(off, 512, 1))
    loop = Loop(queue)
    request = Request(READ, 0, length=MIB)
    assert not queue.submit(request)
    loop.serve(1)
    for off in range(0, MIB, 512):
        assert request.data[off:off + 512] == stamp(off, 512, 1 - off // 512 % 2)
    assert quiet(queue)
    loop.close()


def test_waits_for_space(pair, disk):
    """Of writes that find the cache full each comes out, finished by the threads that make space."""
    pair.backing_path = sparse(disk / "large", 1024 * MIB)
    cache = pair.open(writeback_interval_ms=3_600_000)
    queue = cache.new_queue(16)
    loop = Loop(queue)
    free = [Request(WRITE, 0, bytes(MIB)) for _ in range(16)]
    for at in range(640):
        if not free:
            free += loop.serve(1)
        request = free.pop()
        assert request.result == 0
        request.raw.off = at * MIB
        if queue.submit(request):
            free.append(request)
    loop.serve(queue.in_flight)
    assert quiet(queue)
    assert cache.status["events"]["waits_on_full"] > 0, "it was no overload"
    loop.close()


def test_what_is_cancelled_in_another_thread(pair, disk):
    pair.backing_path = sparse(disk / "large", 1024 * MIB)
    cache = pair.open(writeback_interval_ms=3_600_000)
    queue = cache.new_queue(16)
    loop = Loop(queue)
    requests = [Request(WRITE, 0, bytes(MIB)) for _ in range(16)]
    for round_ in range(20):
        queued = []
        for at in range(1000):
            request = requests[at % 16]
            if request in queued:
                break
            request.raw.off = at * MIB
            if not queue.submit(request):
                queued.append(request)
        canceller = threading.Thread(target=queue.cancel)
        canceller.start()
        assert {id(one) for one in loop.serve(len(queued))} == {id(one) for one in queued}, f"round {round_}"
        canceller.join()
        assert all(one.result in (0, -errno.ECANCELED) for one in queued)
        assert quiet(queue)
    loop.close()


def test_errors(opened, pair):
    """The backing device ends: its reads fail, each of them comes out."""
    queue = opened.queue
    loop = Loop(queue)
    os.truncate(pair.backing_path, 8 * MIB)
    queued = [request for request in (Request(READ, 8 * MIB + at * PAGE, length=PAGE) for at in range(32))
              if not queue.submit(request)]
    assert len(queued) == 32
    assert all(one.result == -errno.EIO for one in loop.serve(32))
    assert quiet(queue)
    os.truncate(pair.backing_path, 16 * MIB)
    loop.close()


def test_destroying_the_queue_closes_it(opened):
    queue = opened.new_queue()
    fd = queue.fd
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]"
    queue.submit(Request(READ, 0, length=PAGE))
    queue.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_forked_child_gets_none_and_leaves_the_parents_alone(opened):
    queue = opened.queue
    fd = queue.fd
    request = Request(READ, 0, length=PAGE)

    def child():
        assert LIB.pcache_queue_fd(queue._handle) == -errno.EPERM  # pylint: disable=protected-access
        os.close(fd)

    loop = Loop(queue)
    assert in_child(child)
    assert not queue.submit(request)
    assert loop.serve(1) == [request] and quiet(queue)
    loop.close()
