# SPDX-License-Identifier: GPL-2.0-or-later
"""spread: memory of the index for each 4 KiB page, by how far apart the pages lie, up to 1 PiB.

No bound: bytes; beside pages that lie side by side.
"""
import random

from ..libpcache import NO_LOG, Cache
from ..sizes import MIB, size_text
from .rig import LEAST_CACHE, NO_WRITEBACK, PAGE, Takes
from .this_process import resident_bytes

TAKES = Takes(cache_bytes=2560 * MIB)


def measure(rig, pages=None):
    """Over a file of memory: a disk's file system may not take one of 1 PiB."""
    pages = pages or rig.scaled(1 << 18)[0]
    wide, widest = rig.scaled(1 << 40, 1 << 50)
    backing = rig.cache.with_suffix(".backing")
    with open(backing, "wb") as file:
        file.truncate(widest)
    for what, span in (("side by side", pages * PAGE), (f"over {size_text(wide)}", wide),
                       (f"over {size_text(widest)}", widest)):
        offsets = random.Random(1).sample(range(span // PAGE), pages)
        empty = resident_bytes()
        with Cache(rig.cache, backing, cache_size=LEAST_CACHE + 2 * pages * PAGE, log=NO_LOG, **NO_WRITEBACK) as cache:
            before = resident_bytes()
            assert cache.queue.write_each((page * PAGE for page in offsets), bytes(PAGE)) == (pages, 0)
            rig.show(f"{pages} pages {what}: bytes of index each",
                     [cache.status["index"]["memory_bytes"] / pages], unit="bytes")
            rig.show(f"{pages} pages {what}: bytes each, all told", [(resident_bytes() - before) / pages],
                     unit="bytes")
        rig.cache.unlink()
    backing.unlink()
    rig.show(f"empty, over {size_text(widest)}, MiB", [(before - empty) / MIB], unit="MiB")
