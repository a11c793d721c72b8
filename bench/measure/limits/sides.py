# SPDX-License-Identifier: GPL-2.0-or-later
"""sides: a front with pcached beside one process that does both, over the same pmem and disk.

Bound of hits, of a full cache and of a hot set: role=both. Bound of misses: fio's nbd engine at the same server.
"""
import contextlib
import random

from .. import nbdkit, processes
from ..fio import iops
from ..libpcache import BUILD
from ..sizes import GIB, MIB
from .rig import LEAST_CACHE, NO_WRITEBACK, PAGE, Takes

TAKES = Takes(cache_bytes=3 * GIB, backing_bytes=2 * GIB)


def measure(rig):
    rig.make_written_backing(rig.scaled(2 * GIB)[0])
    with nbdkit.serving(rig.folder / "disk", "--readonly", "file", rig.backing):
        hits(rig)
        misses(rig)
        full(rig, "writes of four times what the cache holds", 2 * GIB)
        full(rig, "the same within a quarter of it", LEAST_CACHE // 4)
    rig.cache.unlink(missing_ok=True)


def uri(rig):
    return f"nbd+unix:///?socket={rig.folder / 'disk'}"


@contextlib.contextmanager
def front(rig, cache_bytes):
    """A new cache that pcached has; options of a job of its front."""
    rig.cache.unlink(missing_ok=True)
    with open(rig.cache, "wb") as file:
        file.truncate(cache_bytes)
    processes.run([BUILD / "bin" / "pcachectl", "format", rig.cache, "--backing", rig.backing]).check_returncode()
    pcached = [BUILD / "bin" / "pcached", rig.cache, "--backing", rig.backing, "--emulate-pmem"]
    with processes.running(pcached, until_said="has the disk"):
        common = rig.over_cache("fio", cache_bytes, role="front", filename=uri(rig).replace(":", "\\:"))
        del common["cache_size"]  # the backend's
        yield common


@contextlib.contextmanager
def both(rig, cache_bytes):
    """A new cache that one process has; options of its job."""
    rig.cache.unlink(missing_ok=True)
    yield rig.over_cache("fio", cache_bytes)


def in_turn(rig, measure_one):
    """Ratios front / both, a round each."""
    for number in range(rig.rounds):
        found = {role: measure_one(role, number) for role in random.Random(number).sample([front, both], 2)}
        yield found[front] / found[both]


def hits(rig):
    space, volume = rig.scaled(256 * MIB, 4 * GIB)
    for rw in ("randwrite", "randread"):
        def one(role, number, rw=rw):
            with role(rig, rig.cache_size(3 * GIB)) as common:
                quiet = {"writeback_interval_ms": NO_WRITEBACK["writeback_interval_ms"]} if role is both else {}
                fill = {"name": "fill", "rw": "write", "bs": "1m", "size": space}
                job = {"rw": rw, "size": space, "io_size": min(volume, 8 * space), "norandommap": 1,
                       "randseed": number + 1, "stonewall": 1}
                return iops(rig.fio({**common, **quiet}, fill, job)["job"])
        rig.show(f"{rw} hits of a front against role=both", list(in_turn(rig, one)))


def misses(rig):
    space, volume = rig.scaled(2 * GIB, 512 * MIB)
    ratios = []
    for number in range(rig.rounds):
        job, found = {"rw": "randread", "iodepth": 32, "size": space, "io_size": volume, "randseed": number + 1}, {}
        for engine in random.Random(number).sample(["front", "nbd"], 2):
            if engine == "front":
                with front(rig, rig.cache_size(3 * GIB)) as common:
                    found[engine] = iops(rig.fio(common, job)["job"])
            else:
                direct = {"ioengine": "nbd", "uri": uri(rig), "thread": 1, "bs": PAGE, "gtod_reduce": 1}
                found[engine] = iops(rig.fio(direct, job)["job"])
        ratios.append(found["front"] / found["nbd"])
    rig.show("misses of a front at depth 32 against fio's nbd engine at the same server", ratios)


def full(rig, what, space):
    """Random 4 KiB writes of four times what the smallest cache holds."""
    def one(role, number):
        with role(rig, LEAST_CACHE) as common:
            job = {"rw": "randwrite", "size": rig.scaled(space)[0], "io_size": rig.scaled(4 * LEAST_CACHE)[0],
                   "norandommap": 1, "randseed": number + 1}
            return iops(rig.fio(common, job)["job"])
    rig.show(f"{what}: a front against role=both", list(in_turn(rig, one)))
