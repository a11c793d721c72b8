# SPDX-License-Identifier: GPL-2.0-or-later
"""attach: memory of an empty cache over 8 TiB; how long an attach with 4 Mi keys takes.

Beside the latter: the attach of an empty cache of the same size, whose pages exist.
"""
import time

from ..libpcache import NO_LOG, Cache
from ..sizes import GIB, MIB, in_units, size_text
from .rig import NO_WRITEBACK, Takes
from .this_process import resident_bytes

TAKES = Takes(cache_bytes=4 * GIB, caches=2)


def measure(rig):
    over, space, keys = rig.scaled(8 << 40, 4 * GIB, 4 << 20)
    show_memory_of_an_empty_cache(rig, over)
    rig.make_sparse_backing(space)
    size = rig.cache_size(4 * GIB)
    rig.fio(rig.over_cache("fio", size, **NO_WRITEBACK), {"rw": "randwrite", "bs": 512, "size": keys * 512})
    empty_cache = rig.cache.with_suffix(".empty")
    full, empty = [], []
    for _ in range(rig.rounds):
        for path, times in ((rig.cache, full), (empty_cache, empty)):
            begin = time.monotonic()
            with Cache(path, rig.backing, cache_size=size, persist="flushcache", log=NO_LOG, **NO_WRITEBACK):
                times.append(time.monotonic() - begin)
    empty_cache.unlink()
    rig.cache.unlink()
    rig.show(f"{in_units(keys, '', 'Ki', 'Mi')} keys of 512 B, seconds", full, unit="s")
    rig.show("the same size empty, once its pages exist, seconds", empty[1:], unit="s")


def show_memory_of_an_empty_cache(rig, over):
    rig.make_sparse_backing(over)
    before = resident_bytes()
    with Cache(rig.cache, rig.backing, cache_size=rig.cache_size(GIB), persist="flushcache", log=NO_LOG):
        resident = (resident_bytes() - before) / MIB
        print(f"  empty, over {size_text(over)}: {resident:.1f} MiB", flush=True)
        rig.record.keep(f"empty, over {size_text(over)}", [resident], "MiB")
    rig.cache.unlink()
