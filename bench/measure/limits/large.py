# SPDX-License-Identifier: GPL-2.0-or-later
"""large: 4 KiB hits in 8 GiB (2 Mi extents) against 256 MiB, and against the bound over the same 8 GiB.

Bound: libpcache_raw.so over the same file; for writes with a fence after each store and without.
"""
from ..sizes import GIB, MIB, size_text
from .rig import Takes

TAKES = Takes(cache_bytes=11 * GIB)


def measure(rig):
    size = rig.cache_size(11 * GIB)
    small, big, volume = rig.scaled(256 * MIB, 8 * GIB, GIB)
    rig.make_sparse_backing(big)
    rounds = [one_round(rig, size, (small, big), volume) for _ in range(rig.rounds)]
    rig.cache.unlink()
    for rw, fences in (("randwrite", ("each", "none")), ("randread", ("none",))):
        rig.show(f"{rw}, {size_text(big)} against {size_text(small)}", [r[rw, big] / r[rw, small] for r in rounds])
        for fence in fences:
            rig.show(f"{rw}, {size_text(big)} against the bound (fence: {fence}) over {size_text(big)}",
                     [r[rw, big] / r[rw, fence, big] for r in rounds])
            rig.show(f"the bound (fence: {fence}), {size_text(big)} against {size_text(small)}",
                     [r[rw, fence, big] / r[rw, fence, small] for r in rounds])


def one_round(rig, size, parts, volume):
    """{(rw, part) or, of the bound, (rw, fence, part): requests per second}."""
    found = {}
    rig.fill_new_cache(size, max(parts))
    for rw in ("randwrite", "randread"):
        for part in parts:
            found[rw, part] = rig.hits("fio", size, rw, part, volume // 2)
    for rw, fence in (("randwrite", "each"), ("randwrite", "none"), ("randread", "none")):
        for part in parts:
            found[rw, fence, part] = rig.hits("raw", size, rw, part, volume, fence=fence)
    return found
