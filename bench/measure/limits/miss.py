# SPDX-License-Identifier: GPL-2.0-or-later
"""miss: 4 KiB read misses at depth 32, and the CPU time of one.

Bound: fio's io_uring engine on the same file.
"""
import random

from ..fio import cpu_each, iops
from ..sizes import GIB
from .rig import Takes

TAKES = Takes(cache_bytes=3 * GIB, backing_bytes=4 * GIB)


def measure(rig):
    space, volume = rig.scaled(4 * GIB, GIB)
    rig.make_written_backing(space)
    speed, cpu = [], []
    job = {"rw": "randread", "iodepth": 32, "size": space, "io_size": volume}
    for number in range(rig.rounds):
        found = {}
        for engine in random.Random(number).sample(["fio", "io_uring"], 2):
            rig.cache.unlink(missing_ok=True)
            common = (rig.over_cache("fio", rig.cache_size(3 * GIB)) if engine == "fio" else
                      {"ioengine": "io_uring", "fixedbufs": 1, "direct": 1, **rig.over_disk()})
            found[engine] = rig.fio(common, job)["job"]
        speed.append(iops(found["fio"]) / iops(found["io_uring"]))
        cpu.append(cpu_each(found["fio"]) / cpu_each(found["io_uring"]))
    rig.cache.unlink(missing_ok=True)
    rig.show("requests per second", speed)
    rig.show("CPU time of a request", cpu)
