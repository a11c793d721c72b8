# SPDX-License-Identifier: GPL-2.0-or-later
"""drain: writeback of random 4 KiB data to a backing file in memory, by the threads of all CPUs against one thread.

A device in memory takes all that writeback gives it, so that its CPU time is the limit.
"""
import contextlib
import os
import random
import time

from ..errors import MeasureError
from ..libpcache import NO_LOG, PREFAULT_ATTACH, Cache
from ..sizes import GIB, MIB
from .rig import LEAST_CACHE, NO_WRITEBACK, PAGE, Takes

SPACE = GIB  # of the backing file
CACHE = LEAST_CACHE + SPACE
TAKES = Takes(cache_bytes=CACHE + SPACE)


def measure(rig):
    space, = rig.scaled(SPACE)
    pages = space // PAGE // 2
    backing = rig.cache.with_suffix(".backing")
    with open(backing, "wb") as file:  # its pages are there: to make them would be most of the time
        for _ in range(space // MIB):
            file.write(bytes(MIB))
    for data_crc in (0, 1):
        ratios, rates = [], []
        for number in range(rig.rounds):
            order = random.Random(number)
            written = order.sample(range(space // PAGE), pages)
            took = {several: drain_seconds(rig, backing, written, data_crc, several)
                    for several in order.sample([False, True], 2)}
            ratios.append(took[False] / took[True])
            rates.append(pages / took[True] / 1e6)
        rig.show(f"data_crc {data_crc}: all CPUs against one thread", ratios)
        rig.show(f"data_crc {data_crc}: pages by all CPUs, millions a second", rates, unit="M/s")
    backing.unlink()


def drain_seconds(rig, backing, pages, data_crc, several):
    with contextlib.nullcontext() if several else one_cpu():
        cache = Cache(rig.cache, backing, cache_size=rig.cache_size(CACHE), data_crc=data_crc,
                      log=NO_LOG, **NO_WRITEBACK, prefault=PREFAULT_ATTACH)
    with cache:
        assert cache.queue.write_each((page * PAGE for page in pages), os.urandom(PAGE)) == (len(pages), 0)
        if cache.status["writeback"]["bytes"]:
            raise MeasureError("drain: it was written back before its time")
        begin = time.monotonic()
        cache.drain()
        seconds = time.monotonic() - begin
    rig.cache.unlink()
    return seconds


@contextlib.contextmanager
def one_cpu():
    """For threads that are started meanwhile: they stay on it, and a cache starts no more than it needs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
