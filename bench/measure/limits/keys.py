# SPDX-License-Identifier: GPL-2.0-or-later
"""keys: CPU time of writeback and of reclaim for each key, data that was superseded and data that was not.

No bound: nanoseconds.
"""
import random
import time

from ..errors import MeasureError
from ..libpcache import NO_LOG, PREFAULT_ATTACH, Cache
from ..sizes import GIB, MIB
from .rig import LEAST_CACHE, NO_WRITEBACK, PAGE, Takes
from .this_process import cpu_ns

TAKES = Takes(cache_bytes=2560 * MIB, backing_bytes=GIB)
RECLAIM_SECONDS = 60  # far above what it takes


def measure(rig, pages=None):
    pages = pages or rig.scaled(1 << 18)[0]
    for what, times in (("each page once", 1), ("each page 32 times", 32)):
        rig.make_written_backing(pages // times * PAGE)
        rounds = [one_round(rig, pages, times, number) for number in range(rig.rounds)]
        rig.show(f"writeback, {what}, ns of CPU a key", [writeback for writeback, _ in rounds], unit="ns")
        rig.show(f"reclaim, {what}, ns of CPU a key", [reclaim for _, reclaim in rounds], unit="ns")


def one_round(rig, pages, times, number):
    """CPU time a key of (writeback, reclaim), of so many writes that go over the pages so many times."""
    part = pages // times
    with Cache(rig.cache, rig.backing, cache_size=LEAST_CACHE + 2 * pages * PAGE, log=NO_LOG, **NO_WRITEBACK,
               prefault=PREFAULT_ATTACH) as cache:  # a thread that ends takes its time along
        for turn in range(times):
            order = random.Random(number * times + turn).sample(range(part), part)
            assert cache.queue.write_each((page * PAGE for page in order), bytes(PAGE)) == (part, 0)
        begin = cpu_ns()
        cache.drain()
        writeback = (cpu_ns() - begin) / pages
        done, begin = cache.status["reclaim"]["keys"], cpu_ns()
        cache.set_gc_percent(0)
        wait_for_reclaim(cache, pages)
        reclaim = (cpu_ns() - begin) / max(pages - done, 1)
    rig.cache.unlink()
    return writeback, reclaim


def wait_for_reclaim(cache, keys):
    """Until there are none left of so many."""
    deadline = time.monotonic() + RECLAIM_SECONDS
    while (done := cache.status["reclaim"]["keys"]) < keys:
        if time.monotonic() > deadline:
            raise MeasureError(f"keys: {done} of {keys} keys are reclaimed after {RECLAIM_SECONDS} s")
        time.sleep(0.002)
