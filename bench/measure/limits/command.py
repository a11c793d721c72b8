# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sweep of equal jobs cannot show: the cache's other limits, each beside its bound in the same run.

    bench/limits.py [large] [beside] [memory] [attach] [foreground] [miss] [ahead] [fragments] [spread] [keys]
                    [batches] [sides] [pages] [drain]
                    [--rounds N] [--small] [--dir DIR] [--shm DIR] [--out FILE]

    large       4 KiB hits in 8 GiB (2 Mi extents) against 256 MiB, and against the bound over the same 8 GiB
    beside      a reader and a writer of the same 4 MiB, against each alone, and the bound's
    memory      resident memory for each cached 4 KiB extent, without the mapping
    attach      of an empty cache over 8 TiB: memory; of 4 Mi keys: time
    foreground  what write hits lose while writeback runs, and the bound while fio writes to the same disk
    miss        4 KiB read misses at depth 32 against fio's io_uring engine on the same file, and their CPU time
    ahead       sequential 4 KiB read misses at depth 1 with read_ahead against without, and against io_uring by 256 KiB
    fragments   4 KiB read hits after the pages were overwritten by 512 B, against before; the index's memory
    spread      memory of the index for each 4 KiB page, by how far apart the pages lie, up to 1 PiB
    sides       a front with pcached against role=both: hits, a full cache; misses against fio's nbd engine
    keys        CPU time of writeback and of reclaim for each key, data that was superseded and data that was not
    pages       4 KiB hits in 8 GiB with pages of 2 MiB against 4 KiB, and against the bound; the time of an attach
    drain       writeback to a backing file in memory by the threads of all CPUs, against one thread
    batches     4 KiB read hits that fio submits 8 and 32 together, against the bound's, and against one by one

Needs up to 11 GiB in the folder for pmem (large, pages) and 4 GiB in that of the backing file (miss, ahead). Prints
medians with their range; --out keeps them, and all values, as JSON (results/README.md). Its files are removed at the
end, also when it is interrupted.
"""
import argparse
import os
import pathlib

from .. import fio
from ..libpcache import BUILD
from ..scratch import check_space, new_folders
from . import (ahead, attach, batches, beside, drain, foreground, fragments, keys, large, memory, miss, pages, sides,
               spread)
from .record import Record
from .rig import SMALL, Rig, cache_size

LIMITS = {"large": large, "beside": beside, "memory": memory, "attach": attach, "foreground": foreground, "miss": miss,
          "ahead": ahead, "fragments": fragments, "spread": spread, "keys": keys, "batches": batches, "sides": sides,
          "pages": pages, "drain": drain}


def check_place(names, divisor, shm, folder):
    """Before anything is made there."""
    takes = [LIMITS[name].TAKES for name in names]
    check_space([(one.caches * cache_size(one.cache_bytes, divisor), one.backing_bytes // divisor) for one in takes],
                shm, folder, "--dir, --shm, --small")
    fio.require(BUILD, "fio", "raw")


def parse(arguments):
    parser = argparse.ArgumentParser(prog="limits.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="all, if none is given: " + ", ".join(LIMITS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true",
                        help=f"1/{SMALL} of all sizes: to see that it runs, the figures mean little")
    parser.add_argument("--dir", type=pathlib.Path, default="/var/tmp", help="of the backing file")
    parser.add_argument("--shm", type=pathlib.Path, default="/dev/shm", help="of the file for pmem")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="what is printed, and all values, as JSON")
    args = parser.parse_args(arguments)
    if unknown := [what for what in args.what if what not in LIMITS]:
        parser.error(f"{unknown[0]}: expected {', '.join(LIMITS)}")
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: expected 2 or more")
    if args.out and args.small:
        parser.error("--out with --small: expected one of them, figures of --small are not worth keeping")
    if args.out and (args.out.exists() and not args.out.is_file() or
                     not os.access(args.out.absolute().parent, os.W_OK)):
        parser.error(f"--out {args.out}: expected a file in a folder that can be written to")
    return args


def main(arguments=None):
    args = parse(arguments)
    names, divisor = args.what or list(LIMITS), SMALL if args.small else 1
    check_place(names, divisor, args.shm, args.dir)
    with new_folders(args.dir, args.shm) as (folder, shm):
        record = Record()
        if args.out:
            record.look_at(BUILD, args.rounds, folder)
        rig = Rig(folder, shm, args.rounds, record, divisor)
        for name in names:
            record.begin(name)
            LIMITS[name].measure(rig)
    if args.out:
        record.store(args.out)
