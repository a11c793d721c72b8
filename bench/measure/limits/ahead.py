# SPDX-License-Identifier: GPL-2.0-or-later
"""ahead: sequential 4 KiB read misses at depth 1, with read_ahead=256k and without.

Bound: fio's io_uring engine, which reads 256 KiB at a time of the same file.
"""
import random

from ..fio import iops
from ..sizes import GIB, KIB
from .rig import Takes

TAKES = Takes(cache_bytes=3 * GIB, backing_bytes=4 * GIB)
AHEAD = 256 * KIB


def measure(rig):
    space, volume = rig.scaled(4 * GIB, GIB)
    rig.make_written_backing(space)
    gain, of_bound = [], []
    for number in range(rig.rounds):
        found = {}
        for kind in random.Random(number).sample(["ahead", "one by one", "bound"], 3):
            rig.cache.unlink(missing_ok=True)
            if kind == "bound":
                common, block = {"ioengine": "io_uring", "fixedbufs": 1, "direct": 1, **rig.over_disk()}, AHEAD
            else:
                more = {"read_ahead": AHEAD} if kind == "ahead" else {}
                common = rig.over_cache("fio", rig.cache_size(3 * GIB), **more)
                block = 4 * KIB
            job = {"rw": "read", "iodepth": 1, "bs": block, "size": space, "io_size": volume}
            found[kind] = block * iops(rig.fio(common, job)["job"])
        gain.append(found["ahead"] / found["one by one"])
        of_bound.append(found["ahead"] / found["bound"])
    rig.cache.unlink(missing_ok=True)
    rig.show("bytes per second, of those one by one", gain)
    rig.show("bytes per second, of the bound", of_bound)
