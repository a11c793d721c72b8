# SPDX-License-Identifier: GPL-2.0-or-later
"""Writeback against fio: how fast 1 GiB of random 4 KiB dirty data reaches the backing device.

The bound is fio's io_uring engine that writes the same extents, sorted and merged (256 KiB at most), at
depth 32 with O_DIRECT. Both write the same file, in turn, in one run.

    bench/writeback.py [--rounds N] [--mib N] [--range-mib N] [--data-crc] [--dir DIR]
                       [--shm DIR]

Prints one line a round and the median ratio (1 is the bound; more is better). Its files are removed at the end, also
when it is interrupted.
"""

import argparse
import os
import pathlib
import random
import statistics
import time

from . import fio
from .errors import MeasureError
from .libpcache import BUILD, NO_LOG, PREFAULT_ATTACH, Cache
from .scratch import check_space, new_folders
from .sizes import MIB

PAGE = 4096
MERGED = 256 << 10
CACHE = 2048 * MIB
MOST_MIB = 1536  # of a cache of that size, before reclaim has it written back


def merged(pages):
    """Sorted extents of neighbouring pages, as writeback makes them."""
    extents = []
    for page in sorted(pages):
        off = page * PAGE
        if extents and sum(extents[-1]) == off and extents[-1][1] < MERGED:
            extents[-1][1] += PAGE
        else:
            extents.append([off, PAGE])
    return extents


def run_fio(backing, extents, folder):
    log = folder / "iolog"
    with open(log, "w", encoding="ascii") as f:
        # By its name alone, where fio stands: a log has no quotes, and a path may have blanks.
        f.write(f"fio version 2 iolog\n{backing.name} add\n{backing.name} open\n")
        f.writelines(f"{backing.name} write {off} {length}\n" for off, length in extents)
        f.write(f"{backing.name} close\n")
    job = fio.run_jobs(folder, {}, {"name": "bound", "read_iolog": log.name, "replay_no_stall": 1,
                                    "ioengine": "io_uring", "direct": 1, "iodepth": 32})["bound"]
    assert job["write"]["total_ios"] == len(extents)
    if job["write"]["runtime"] == 0:
        raise MeasureError("fio: over within a millisecond, which is as fine as it measures; see --mib")
    return job["write"]["runtime"] / 1000  # without its fsync, which ours contains


def run_drain(cache_path, backing, pages, data_crc):
    with Cache(cache_path, backing, cache_size=CACHE, gc_percent=90, writeback_interval_ms=3600000,
               data_crc=data_crc, prefault=PREFAULT_ATTACH, log=NO_LOG) as cache:
        done, error = cache.queue.write_each((page * PAGE for page in pages), os.urandom(PAGE))
        assert done == len(pages) and error == 0
        if cache.status["writeback"]["bytes"]:  # "dirty" has not yet what is in open ksets
            raise MeasureError("it was written back before its time")
        begin = time.monotonic()
        cache.drain()
        seconds = time.monotonic() - begin
        status = cache.status["writeback"]
        return seconds, status


def parse(arguments):
    parser = argparse.ArgumentParser(prog="writeback.py", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--range-mib", type=int, default=4096)
    parser.add_argument("--data-crc", type=int, default=0)
    parser.add_argument("--dir", type=pathlib.Path, default="/var/tmp")
    parser.add_argument("--shm", type=pathlib.Path, default="/dev/shm")
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected 1 or more")
    if not 1 <= args.mib <= MOST_MIB:
        parser.error(f"--mib {args.mib}: expected 1 to {MOST_MIB}")
    if args.data_crc not in (0, 1):  # argparse's own words differ by version
        parser.error(f"--data-crc {args.data_crc}: expected 0 or 1")
    if args.range_mib < args.mib:
        parser.error(f"--range-mib {args.range_mib}: expected --mib, {args.mib}, or more")
    return args


def main(arguments=None):
    args = parse(arguments)
    check_space([(CACHE, args.range_mib * MIB)], args.shm, args.dir, "--dir, --shm, --range-mib")
    fio.require(BUILD)
    ratios = []
    with new_folders(args.dir, args.shm) as (folder, shm):
        backing = folder / "backing"
        with open(backing, "wb") as f:
            for _ in range(args.range_mib):
                f.write(bytes(MIB))
            f.flush()
            os.fsync(f.fileno())
        for number in range(args.rounds):
            pages = random.Random(number).sample(range(args.range_mib * MIB // PAGE), args.mib * MIB // PAGE)
            extents = merged(pages)
            cache = shm / "cache"
            results = {}
            for what in random.Random(number).sample(["drain", "fio"], 2):
                results[what] = (run_drain(cache, backing, pages, args.data_crc) if what == "drain"
                                 else run_fio(backing, extents, folder))
            cache.unlink()
            seconds, status = results["drain"]
            ratios.append(results["fio"] / seconds)
            print(f"round {number}: drain {args.mib / seconds:.0f} MiB/s in {status['writes']} writes, "
                  f"{status['ksets']} ksets, {status['flushes']} flushes; fio {args.mib / results['fio']:.0f} MiB/s "
                  f"in {len(extents)}; ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} of {len(ratios)} "
          f"({min(ratios):.2f} to {max(ratios):.2f})")
