# SPDX-License-Identifier: GPL-2.0-or-later
"""batches: 4 KiB read hits that fio submits 8 and 32 together, against the bound, and against one by one.

Bound: libpcache_raw.so, which loads the same bytes of the same file when fio commits them, one after the other.
"""
import contextlib
import random

from ..sizes import MIB
from .rig import LEAST_CACHE, Takes

TAKES = Takes(cache_bytes=LEAST_CACHE + 512 * MIB)
TOGETHER = (1, 8, 32)


def measure(rig):
    part = rig.scaled(256 * MIB)[0]
    rig.make_sparse_backing(part)
    size = LEAST_CACHE + 2 * part
    rounds = []
    for number in range(rig.rounds):
        rig.fill_new_cache(size, part)
        order = random.Random(number)
        jobs = [(engine, n) for n in order.sample(TOGETHER, len(TOGETHER))
                for engine in order.sample(["fio", "raw"], 2)]
        rounds.append({job: read_hits(rig, *job, size, part) for job in jobs})
    rig.cache.unlink()
    for n in TOGETHER:
        rig.show(f"4 KiB reads, {n} at a time, against the bound", [r["fio", n] / r["raw", n] for r in rounds])
    for n in TOGETHER[1:]:
        for engine, whose in (("fio", "reads"), ("raw", "the bound's")):
            rig.show(f"{whose}, {n} at a time against one", [r[engine, n] / r[engine, 1] for r in rounds])


def read_hits(rig, engine, together, size, part):
    depth = {"iodepth": together, "iodepth_batch": together, "iodepth_batch_complete_max": together}
    with rig.lent_cache() if engine == "raw" else contextlib.nullcontext():
        return rig.hits(engine, size, "randread", part, 4 * part, **depth)
