# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cache costs behind NBD: pcache's plugin beside nbdkit's own memory and file plugins, in one run, in turn.

Each serves the same bytes by its own nbdkit, at a UNIX socket; fio's nbd engine asks. All of the range is in the cache
before, so each read is a hit. The file is in memory, so none of the three waits for a disk. A row for each workload:
4 KiB, random, by one connection and by two; the ratio is that of the two of one round.

    bench/nbd.py [--rounds N] [--seconds N] [--mib N] [--cache-mode MODE] [--dir DIR] [--shm DIR]

Its files are removed at the end, also when it is interrupted.
"""

import argparse
import contextlib
import pathlib
import random

from . import fio, nbdkit
from .estimates import estimate, paired_ratios
from .libpcache import BUILD
from .scratch import check_space, new_folders
from .sizes import MIB
from .text_table import as_text

SERVERS = ("pcache", "memory", "file")
DEPTH = 16
WORKLOADS = {f"{name}, {jobs} connection{'s' if jobs > 1 else ''}": {"rw": rw, "numjobs": jobs, **more}
             for name, rw, more in (("read", "randread", {}), ("write", "randwrite", {}),
                                    ("write, a flush each 32", "randwrite", {"fsync": 32}))
             for jobs in (1, 2)}


def commands(folder, shm, args):
    """How each is served; the socket is added."""
    size = args.mib * MIB
    plugin = BUILD / "lib" / "nbdkit-pcache-plugin.so"
    return {"pcache": [plugin, f"cache_dev={shm / 'cache'}", f"cache_size={4 * size + 512 * MIB}", "emulate_pmem=1",
                       f"backing={folder / 'disk'}", "control=off", f"cache_mode={args.cache_mode}"],
            "memory": ["memory", f"size={size}"],
            "file": ["file", f"file={shm / 'file'}"]}


def ask(socket, folder, args, **options):
    """Requests per second."""
    common = {"ioengine": "nbd", "uri": f"nbd+unix:///?socket={socket.name}", "bs": "4k", "size": args.mib * MIB,
              "iodepth": DEPTH, "thread": 1, "group_reporting": 1}
    job, = fio.run_jobs(folder, common, {"name": "job", **options}).values()
    return fio.iops(job)


def warm(socket, folder, args):
    """Writes all of it once, so that the cache has it and nobody's memory is new."""
    ask(socket, folder, args, rw="write", bs="1m", end_fsync=1)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="nbd.py", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--mib", type=int, default=256, help="of the device")
    parser.add_argument("--cache-mode", default="writeback")
    parser.add_argument("--dir", type=pathlib.Path, default="/var/tmp", help="where the backing file goes")
    parser.add_argument("--shm", type=pathlib.Path, default="/dev/shm")
    args = parser.parse_args(arguments)
    for name, least, most in (("rounds", 1, 100), ("seconds", 1, 600), ("mib", 16, 4096)):
        if not least <= (value := getattr(args, name)) <= most:
            parser.error(f"--{name} {value}: expected {least} to {most}")
    return args


def rows_of(figures):
    for workload, found in figures.items():
        cells = [f"{estimate(list(found[server].values())).median / 1000:.1f}" for server in SERVERS]
        for other in SERVERS[1:]:
            ratio = estimate(paired_ratios(found["pcache"], found[other]))
            cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
        yield [workload, *cells]


def main(arguments=None):
    args = parse(arguments)
    size = args.mib * MIB
    check_space([(6 * size + 512 * MIB, size)], args.shm, args.dir, "--dir, --shm, --mib")
    fio.require(BUILD)
    with contextlib.ExitStack() as stack:
        folder, shm = stack.enter_context(new_folders(args.dir, args.shm))
        for path in (folder / "disk", shm / "file"):
            with open(path, "wb") as f:
                f.truncate(size)
        sockets = {}
        for server, command in commands(folder, shm, args).items():
            sockets[server] = folder / server
            stack.enter_context(nbdkit.serving(sockets[server], *command))
            warm(sockets[server], folder, args)
        figures = {workload: {server: {} for server in SERVERS} for workload in WORKLOADS}
        for number in range(args.rounds):
            for workload, options in WORKLOADS.items():
                for server in random.Random(f"{number} {workload}").sample(SERVERS, len(SERVERS)):
                    figures[workload][server][number] = ask(sockets[server], folder, args, **options, time_based=1,
                                                            runtime=args.seconds, randseed=number + 1)
    head = [f"K requests/s, n {args.rounds}", *SERVERS, "pcache / memory", "pcache / file"]
    print(as_text(head, list(rows_of(figures))), end="")
