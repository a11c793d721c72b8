# SPDX-License-Identifier: GPL-2.0-or-later
"""beside: a reader and a writer of the same 4 MiB, each beside the other against alone.

Bound: the same two jobs over libpcache_raw.so, which fences each store.
"""
from ..fio import iops
from ..sizes import GIB, MIB
from .rig import NO_WRITEBACK, Takes

TAKES = Takes(cache_bytes=6 * GIB)
PART = 4 * MIB
TIMED = {"size": PART, "norandommap": 1, "time_based": 1, "runtime": "200ms"}
READER, WRITER = {"name": "r", "rw": "randread", **TIMED}, {"name": "w", "rw": "randwrite", **TIMED}


def measure(rig):
    rig.make_sparse_backing(GIB)
    size = rig.cache_size(6 * GIB)
    kept, absolute = {"r": [], "w": []}, {"r": [], "w": []}
    for _ in range(rig.rounds):
        found = one_round(rig, size)
        for name in kept:
            alone, both = [found[e, name, 1] for e in ("fio", "raw")], [found[e, name, 2] for e in ("fio", "raw")]
            kept[name].append(both[0] / alone[0] / (both[1] / alone[1]))
            absolute[name].append(both[0] / both[1])
    rig.cache.unlink()
    for name, what in (("r", "reader"), ("w", "writer")):
        rig.show(f"the {what} beside the other against alone, of the bound's (fence: each)", kept[name])
        rig.show(f"the {what} beside the other against the bound's beside the other", absolute[name])


def one_round(rig, size):
    """{(engine, job, how many jobs ran): requests per second}."""
    found = {}
    for engine, more in (("fio", NO_WRITEBACK), ("raw", {"fence": "each"})):
        for jobs in ((READER,), (WRITER,), (READER, WRITER)):
            if engine == "fio":
                rig.fill_new_cache(size, PART)
            else:
                rig.blank_cache()
            for name, job in rig.fio(rig.over_cache(engine, size, **more), *jobs).items():
                found[engine, name, len(jobs)] = iops(job)
    return found
