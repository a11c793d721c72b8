# SPDX-License-Identifier: GPL-2.0-or-later
"""Rig: what all limits measure with. A pmem file, a backing file, and fio over the cache or over its bound."""
import contextlib
import dataclasses
import os

from .. import fio
from ..libpcache import BUILD
from ..sizes import MIB

PAGE = 4096
LEAST_CACHE = 512 * MIB
SMALL = 16  # the divisor of --small
NO_WRITEBACK = {"writeback_interval_ms": 3600000, "gc_percent": 90}
BEGINNING = 4 * MIB  # of a cache: with this zeroed the bound takes the file


@dataclasses.dataclass(frozen=True)
class Takes:
    """The most that a limit takes of the two folders."""
    cache_bytes: int
    backing_bytes: int = 0  # of what is not sparse
    caches: int = 1  # at a time


def cache_size(size, divisor):
    """Of a small one, too, enough must stay free that nothing waits: it has few segments."""
    return LEAST_CACHE + (size - LEAST_CACHE) // divisor


class Rig:
    """`record` takes the figures; `rounds` is how often each pair is measured."""

    def __init__(self, folder, shm, rounds, record, divisor=1):
        self.rounds = rounds
        self.divisor = divisor
        self.record, self.show = record, record.show
        self.folder = folder  # fio stands in it: it would take a path with # or : for another, but not these names
        self.cache = shm / "cache"
        self.backing = folder / "backing"
        self.status = folder / "status"  # what the cache says at the end of a job that names it

    def fio(self, common, *jobs):
        return fio.run_jobs(self.folder, common, *jobs)

    def scaled(self, *sizes):
        """Sizes of data, in this run."""
        return tuple(size // self.divisor for size in sizes)

    def cache_size(self, size):
        return cache_size(size, self.divisor)

    def make_sparse_backing(self, size):
        self.backing.unlink(missing_ok=True)
        self.backing.touch()
        os.truncate(self.backing, size)

    def make_written_backing(self, size):
        """Of blocks that are there: writes to holes cost the kernel more than the disk."""
        block = os.urandom(MIB)
        with open(self.backing, "wb") as file:
            for _ in range(size // MIB):
                file.write(block)
            os.fsync(file.fileno())

    def over_disk(self):
        """Options of a job of one of fio's own engines over the backing file."""
        return {"filename": self.backing.name, "thread": 1, "bs": "4k", "gtod_reduce": 1, "randrepeat": 0}

    def over_cache(self, engine, size, **more):
        """Options of a job over the cache ("fio") or over its bound ("raw"), of this size."""
        return {"ioengine": f"external:{BUILD.absolute()}/lib/libpcache_{engine}.so", "cache_dev": self.cache,
                "cache_size": size, "emulate_pmem": 1, "persist": "flushcache", **self.over_disk(), **more}

    def hits(self, engine, cache_bytes, rw, size, io_size, **more):
        """Requests per second of a job that does `io_size` bytes of hits within `size`."""
        tuned = NO_WRITEBACK if engine == "fio" else {}
        if engine == "raw":
            self.blank_cache()
        job = {"rw": rw, "size": size, "io_size": io_size, "norandommap": 1, **more}
        return fio.iops(self.fio(self.over_cache(engine, cache_bytes, **tuned), job)["job"])

    def fill_new_cache(self, cache_bytes, size, **more):
        self.cache.unlink(missing_ok=True)
        self.fio(self.over_cache("fio", cache_bytes, **NO_WRITEBACK, **more), {"rw": "randwrite", "size": size})

    def blank_cache(self):
        """The bound refuses a device that holds a cache; its pages stay where they are."""
        if self.cache.exists():
            with open(self.cache, "r+b") as file:
                file.write(bytes(BEGINNING))

    @contextlib.contextmanager
    def lent_cache(self):
        """To the bound, which refuses a cache: for reading alone. The cache is there again afterwards."""
        with open(self.cache, "r+b", buffering=0) as file:
            start = file.read(BEGINNING)
            yield
            file.seek(0)
            file.write(start)
