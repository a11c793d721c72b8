# SPDX-License-Identifier: GPL-2.0-or-later
"""memory: resident memory for each cached 4 KiB extent, without the mapping.

No bound: bytes, of all that the cache allocates.
"""
import random

from ..libpcache import NO_LOG, Cache
from ..sizes import GIB
from .rig import NO_WRITEBACK, PAGE, Takes
from .this_process import resident_bytes

TAKES = Takes(cache_bytes=6 * GIB)


def measure(rig):
    extents, = rig.scaled(1 << 20)
    rig.make_sparse_backing(extents * PAGE)
    for data_crc in (0, 1):
        rig.cache.unlink(missing_ok=True)
        with Cache(rig.cache, rig.backing, cache_size=rig.cache_size(6 * GIB), data_crc=data_crc, log=NO_LOG,
                   **NO_WRITEBACK) as cache:
            offsets = random.Random(1).sample(range(extents), extents)
            before = resident_bytes()
            done, error = cache.queue.write_each((page * PAGE for page in offsets), bytes(PAGE))
            assert (done, error) == (extents, 0)
            what, each = f"{extents} extents of 4 KiB, data_crc {data_crc}", (resident_bytes() - before) / extents
            print(f"  {what}: {each:.1f} bytes each, all told", flush=True)
            rig.record.keep(f"{what}, each, all told", [each], "bytes")
    rig.cache.unlink()
