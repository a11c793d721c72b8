# SPDX-License-Identifier: GPL-2.0-or-later
"""pages: 4 KiB hits in 8 GiB with pages of 2 MiB against pages of 4 KiB, and the time until a new cache has them.

Bound: libpcache_raw.so over the same file, with pages of 2 MiB; for writes without fences.
"""
import time

from ..libpcache import NO_LOG, PREFAULT_ATTACH, Cache
from ..sizes import GIB, size_text
from .rig import NO_WRITEBACK, Takes

TAKES = Takes(cache_bytes=11 * GIB)
KINDS = ("never", "auto")  # in this order: pages that were made huge stay so


def measure(rig):
    size = rig.cache_size(11 * GIB)
    part, volume = rig.scaled(8 * GIB, GIB)
    rig.make_sparse_backing(part)
    rounds = [one_round(rig, size, part, volume) for _ in range(rig.rounds)]
    for rw in ("randwrite", "randread"):
        rig.show(f"{rw}, {size_text(part)}: pages of 2 MiB against 4 KiB",
                 [r[rw, "auto"] / r[rw, "never"] for r in rounds])
        rig.show(f"{rw}, {size_text(part)}: pages of 2 MiB against the bound's (fence: none)",
                 [r[rw, "auto"] / r[rw, "bound"] for r in rounds])
    rig.show("the part of the mapping in pages of 2 MiB", [r["huge"] for r in rounds])
    rig.show("attach of a new cache with prefault=attach: pages of 2 MiB against 4 KiB, seconds",
             [r["auto"] / r["never"] for r in rounds])


def one_round(rig, size, part, volume):
    found = {}
    for huge_pages, kind in enumerate(("auto", "never")):
        rig.cache.unlink(missing_ok=True)
        begin = time.monotonic()
        with Cache(rig.cache, rig.backing, cache_size=size, prefault=PREFAULT_ATTACH, huge_pages=huge_pages, log=NO_LOG,
                   **NO_WRITEBACK) as cache:
            found[kind] = time.monotonic() - begin
            found["huge"] = max(found.get("huge", 0), cache.status["cache"]["huge_bytes"] / size)
    rig.fill_new_cache(size, part, huge_pages="never")
    for kind in KINDS:
        for rw in ("randwrite", "randread"):
            found[rw, kind] = rig.hits("fio", size, rw, part, volume // 2, huge_pages=kind)
    for rw in ("randwrite", "randread"):
        found[rw, "bound"] = rig.hits("raw", size, rw, part, volume, fence="none")
    rig.cache.unlink()
    return found
