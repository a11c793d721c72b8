# SPDX-License-Identifier: GPL-2.0-or-later
"""A child that was forked after pcache_open() can do nothing to its parent's cache, and is told so at once."""

import ctypes as c
import errno
import os
import signal
import traceback

from measure.libpcache import FLUSH, LIB, READ, WRITE, FUA, PcacheError, Request, _Info, _Request
from support import PAGE, wait_until


def in_child(function):
    """Runs it in a forked child; True when it returns, in time."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
        os._exit(1)
    status = []

    def ended():
        done, code = os.waitpid(pid, os.WNOHANG)
        status.append(code)
        return done == pid

    try:
        wait_until(ended)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return status[-1] == 0


def refused(function, *args):
    try:
        function(*args)
    except PcacheError as error:
        return error.code == errno.EPERM and "forked" in error.text
    return False


def test_every_call_is_refused(cache):
    cache.write(0, b"a" * PAGE)
    info = _Info(size=c.sizeof(_Info))

    def child():
        for op, flags in ((READ, 0), (WRITE, 0), (WRITE, FUA), (FLUSH, 0)):
            request = Request(op, 0, b"b" * PAGE, flags=flags)
            assert LIB.pcache_submit(cache.queue._handle, c.byref(request.raw)) == -errno.EPERM
            pointers, count = c.POINTER(_Request) * 1, c.c_uint32(9)
            one, done = pointers(c.pointer(request.raw)), pointers()
            assert LIB.pcache_submit_batch(cache.queue._handle, one, 1, done, c.byref(count)) == -errno.EPERM
            assert count.value == 0 and request.data == b"b" * PAGE
        assert LIB.pcache_reap(cache.queue._handle, None, 0, 0, 0) == -errno.EPERM
        assert LIB.pcache_queue_cancel(cache.queue._handle) == -errno.EPERM
        assert LIB.pcache_queue_fd(cache.queue._handle) == -errno.EPERM
        assert LIB.pcache_get_info(cache._handle, c.byref(info)) == -errno.EPERM
        assert LIB.pcache_get_status(cache._handle, 0) is None
        assert LIB.pcache_map(cache._handle, 0, PAGE, None, 1) == -errno.EPERM
        assert refused(cache.drain) and refused(cache.set_gc_percent, 50) and refused(cache.new_queue)
        assert refused(cache.close), "it ends at once, and its queues are left alone"

    assert in_child(child)
    assert cache.read(0, PAGE) == b"a" * PAGE
    cache.write(PAGE, b"c" * PAGE, flags=FUA)
    assert cache.status["requests"]["writes"] == 2


def test_a_child_that_writes_changes_nothing(cache):
    """Without the guard its data lands in the places that the parent's next writes take."""
    for at in range(64):
        cache.write(at * PAGE, bytes([at]) * PAGE)

    def child():
        for at in range(64, 256):
            request = Request(WRITE, at * PAGE, b"!" * PAGE)
            LIB.pcache_submit(cache.queue._handle, c.byref(request.raw))

    written = [(at, bytes([at % 251]) * PAGE) for at in range(64, 128)]
    for at, data in written[:32]:
        cache.write(at * PAGE, data)
    assert in_child(child)
    for at, data in written[32:]:
        cache.write(at * PAGE, data)
    for at, data in written:
        assert cache.read(at * PAGE, PAGE) == data


def test_what_the_child_opens_is_its_own(pair):
    """A cache that was closed before the fork, or is opened after it."""
    pair.open().close()

    def child():
        with pair.open() as cache:
            cache.write(0, b"child" + bytes(PAGE - 5), flags=FUA)

    assert in_child(child)
    with pair.open() as cache:
        assert cache.read(0, 5 + 507)[:5] == b"child"


def test_forks_while_queues_come_and_go(cache):
    """The child's list is whole at any moment."""
    for _ in range(20):
        queue = cache.new_queue()
        assert in_child(lambda: os._exit(0 if refused(cache.drain) else 1))
        cache._queues.remove(queue)
        queue.close()
