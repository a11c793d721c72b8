# SPDX-License-Identifier: GPL-2.0-or-later
"""foreground: what write hits lose while writeback runs.

Bound: libpcache_raw.so, which never fences, while fio writes to the same disk at depth 32. Whatever writes to the disk
takes from who stores beside it, by its interrupts: from the bound, too.
"""
import json
import random
import statistics

from ..fio import iops
from ..sizes import GIB, MIB
from .rig import Takes

TAKES = Takes(cache_bytes=8 * GIB, backing_bytes=2 * GIB)


def measure(rig):
    size, rounds, written = rig.cache_size(8 * GIB), [], []
    part, space = rig.scaled(256 * MIB, 2 * GIB)
    hits = {"name": "hits", "rw": "randwrite", "size": part, "io_size": 2 * space, "norandommap": 1, "exitall": 1}
    rig.make_written_backing(space)
    for number in range(rig.rounds):
        found = {}
        for engine, beside in random.Random(number).sample([(e, b) for e in ("fio", "raw") for b in (0, 1)], 4):
            rig.fill_new_cache(size, space)
            found[engine, beside] = (cache_hits(rig, size, hits, beside) if engine == "fio" else
                                     bound_hits(rig, size, hits, beside, space))
            if (engine, beside) == ("fio", 1):
                written.append(json.loads(rig.status.read_text(encoding="utf-8"))["writeback"]["bytes"] / MIB)
        rounds.append(found)
    rig.cache.unlink()
    rig.show("write hits while writeback runs, against without", [r["fio", 1] / r["fio", 0] for r in rounds],
             f"; {statistics.median(written):.0f} MiB written back meanwhile")
    rig.show("the bound (fence: none) while fio writes to the disk at depth 32, against without",
             [r["raw", 1] / r["raw", 0] for r in rounds])
    rig.show("write hits while writeback runs, against the bound while fio writes",
             [r["fio", 1] / r["raw", 1] for r in rounds])
    rig.record.keep("written back meanwhile", written, "MiB")


def cache_hits(rig, size, job, beside):
    """`beside`: with writeback."""
    more = {"writeback_interval_ms": 1 if beside else 3600000, "gc_percent": 90, "stats_file": rig.status.name}
    return iops(rig.fio(rig.over_cache("fio", size, **more), job)["hits"])


def bound_hits(rig, size, job, beside, space):
    """`beside`: with a job that writes to the disk."""
    disk = {"name": "disk", "ioengine": "io_uring", "fixedbufs": 1, "direct": 1, "iodepth": 32, "rw": "randwrite",
            "size": space, "time_based": 1, "runtime": "60s"}
    rig.blank_cache()
    own = {**rig.over_cache("raw", size, fence="none"), **job}
    return iops(rig.fio(rig.over_disk(), own, *[disk][:beside])["hits"])
