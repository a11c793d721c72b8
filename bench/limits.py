#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sweep of equal jobs cannot show: the cache's other limits, each beside its bound in the same run.

    bench/limits.py [large] [beside] [memory] [attach] [foreground] [miss] [fragments] [spread] [keys]
                    [--rounds N] [--small] [--dir DIR] [--shm DIR] [--out FILE]

    large       4 KiB hits in 8 GiB (2 Mi extents) against 256 MiB, and against the bound over the same 8 GiB
    beside      a reader and a writer of the same 4 MiB, against each alone, and the bound's
    memory      resident memory for each cached 4 KiB extent, without the mapping
    attach      of an empty cache over 8 TiB: memory; of 4 Mi keys: time
    foreground  what write hits lose while writeback runs, and the bound while fio writes to the same disk
    miss        4 KiB read misses at depth 32 against fio's io_uring engine on the same file, and their CPU time
    fragments   4 KiB read hits after the pages were overwritten by 512 B, against before; the index's memory
    spread      memory of the index for each 4 KiB page, by how far apart the pages lie, up to 1 PiB
    keys        CPU time of writeback and of reclaim for each key, data that was superseded and data that was not

Needs up to 11 GiB in the folder for pmem (large) and 4 GiB in that of the backing file (miss). Prints medians with
their range; --out keeps them, and all values, as JSON (results/README.md). Its files are removed at the end, also when
it is interrupted.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

try:
    from libpcache import _LOG_FN, BUILD, MIB, PREFAULT_ATTACH, Cache  # noqa: E402
except OSError as missing:
    sys.exit(f"limits.py: {missing}")
from folders import GIB, Refused, check, check_fio, ended_in_one_line, made_in, one_line  # noqa: E402
from record import Record, Wrong  # noqa: E402

PAGE = 4096
LEAST_CACHE = 512 * MIB
SMALL = 16
RECLAIM_SECONDS = 60  # far above what it takes
SILENT = {"log": _LOG_FN()}  # a Ctrl-C that C's call of a Python function meets is lost
# How many caches of which size there are at a time, and what is taken of the folder of the backing file where it is not
# sparse.
TAKES = {"large": (1, 11 * GIB, 0), "beside": (1, 6 * GIB, 0), "memory": (1, 6 * GIB, 0), "attach": (2, 4 * GIB, 0),
         "foreground": (1, 8 * GIB, 2 * GIB), "miss": (1, 3 * GIB, 4 * GIB), "fragments": (1, 2 * GIB, 0),
         "spread": (1, 2560 * MIB, 0), "keys": (1, 2560 * MIB, GIB)}
NO_WRITEBACK = {"writeback_interval_ms": 3600000, "gc_percent": 90}


def fio(folder, common, *jobs):
    """Runs the jobs, dicts of fio's options, in one process at a time, in the folder; {name: fio's JSON of the job}."""
    command = ["fio", "--output-format=json"]
    for job in jobs:
        options = {**common, **job}
        command += [f"--name={options.pop('name', 'job')}", f"--ioengine={options.pop('ioengine')}"]
        command += [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", cwd=folder)
    if done.returncode != 0:
        raise Refused(f"fio: {one_line(done.stderr) or one_line(done.stdout) or f'exit status {done.returncode}'}")
    out = done.stdout
    found = {job["jobname"]: job for job in json.loads(out[out.index("{"):], strict=False)["jobs"]}
    assert all(job["error"] == 0 for job in found.values())
    return found


def not_zero(job, found):
    if found == 0:
        raise Refused(f"fio: job {job['jobname']}: too short for what it measures with")
    return found


def iops(job):
    return not_zero(job, job["read"]["iops"] + job["write"]["iops"])


def cpu_each(job):
    """CPU time of a request, in a unit of which only the ratio is taken."""
    return not_zero(job, job["usr_cpu"] + job["sys_cpu"]) / iops(job)


def text(number, *units):
    """In the greatest of the units, each 1024 of the one before, that it is a multiple of."""
    return next(f"{number >> shift} {units[shift // 10]}" for shift in range(10 * len(units) - 10, -1, -10)
                if number % (1 << shift) == 0)


def size_text(size):
    return text(size, "B", "KiB", "MiB", "GiB", "TiB", "PiB")


def cache_size(size, divisor):
    """Of a small one, too, enough must stay free that nothing waits: it has few segments."""
    return LEAST_CACHE + (size - LEAST_CACHE) // divisor


class Bench:
    def __init__(self, folder, shm, rounds, record, divisor=1):
        self.rounds = rounds
        self.divisor = divisor
        self.record, self.show = record, record.show
        self.folder = folder  # fio stands in it: it would take a path with # or : for another, but not these names
        self.cache = shm / "cache"
        self.backing = folder / "backing"

    def fio(self, common, *jobs):
        return fio(self.folder, common, *jobs)

    def scaled(self, *sizes):
        """Sizes of data, in this run."""
        return tuple(size // self.divisor for size in sizes)

    def cache_size(self, size):
        return cache_size(size, self.divisor)

    def sparse(self, size):
        self.backing.unlink(missing_ok=True)
        self.backing.touch()
        os.truncate(self.backing, size)

    def written(self, size):
        """Of blocks that are there: writes to holes cost the kernel more than the disk."""
        block = os.urandom(MIB)
        with open(self.backing, "wb") as file:
            for _ in range(size // MIB):
                file.write(block)
            os.fsync(file.fileno())

    def common(self, engine, size, **more):
        return {"ioengine": f"external:{BUILD.absolute()}/lib/libpcache_{engine}.so", "cache_dev": self.cache,
                "cache_size": size, "emulate_pmem": 1, "persist": "flushcache", "filename": self.backing.name,
                "thread": 1, "bs": "4k", "gtod_reduce": 1, "randrepeat": 0, **more}

    def hits(self, engine, cache_bytes, rw, size, io_size, **more):
        tuned = NO_WRITEBACK if engine == "fio" else {}
        if engine == "raw":
            self.blank()
        job = {"rw": rw, "size": size, "io_size": io_size, "norandommap": 1, **more}
        return iops(self.fio(self.common(engine, cache_bytes, **tuned), job)["job"])

    def fill(self, cache_bytes, size):
        self.cache.unlink(missing_ok=True)
        self.fio(self.common("fio", cache_bytes, **NO_WRITEBACK), {"rw": "randwrite", "size": size})

    def blank(self):
        """The bound refuses a device that holds a cache; its pages stay where they are."""
        if self.cache.exists():
            with open(self.cache, "r+b") as file:
                file.write(bytes(4 * MIB))

    def large(self):
        size = self.cache_size(11 * GIB)
        small, big, volume = self.scaled(256 * MIB, 8 * GIB, GIB)
        self.sparse(big)
        seen = []
        for _ in range(self.rounds):
            row = {}
            self.fill(size, big)
            for rw in ("randwrite", "randread"):
                for part in (small, big):
                    row[rw, part] = self.hits("fio", size, rw, part, volume // 2)
            for rw, fence in (("randwrite", "each"), ("randwrite", "none"), ("randread", "none")):
                for part in (small, big):
                    row[rw, fence, part] = self.hits("raw", size, rw, part, volume, fence=fence)
            seen.append(row)
        self.cache.unlink()
        for rw, fences in (("randwrite", ("each", "none")), ("randread", ("none",))):
            self.show(f"{rw}, {size_text(big)} against {size_text(small)}", [r[rw, big] / r[rw, small] for r in seen])
            for fence in fences:
                self.show(f"{rw}, {size_text(big)} against the bound (fence: {fence}) over {size_text(big)}",
                          [r[rw, big] / r[rw, fence, big] for r in seen])
                self.show(f"the bound (fence: {fence}), {size_text(big)} against {size_text(small)}",
                          [r[rw, fence, big] / r[rw, fence, small] for r in seen])

    def beside(self):
        self.sparse(GIB)
        size, part = self.cache_size(6 * GIB), 4 * MIB
        timed = {"size": part, "norandommap": 1, "time_based": 1, "runtime": "200ms"}
        reader, writer = {"name": "r", "rw": "randread", **timed}, {"name": "w", "rw": "randwrite", **timed}
        kept = {"r": [], "w": []}
        absolute = {"r": [], "w": []}
        for _ in range(self.rounds):
            row = {}
            for engine, more in (("fio", NO_WRITEBACK), ("raw", {"fence": "each"})):
                for jobs in ((reader,), (writer,), (reader, writer)):
                    if engine == "fio":
                        self.fill(size, part)
                    else:
                        self.blank()
                    for name, job in self.fio(self.common(engine, size, **more), *jobs).items():
                        row[engine, name, len(jobs)] = iops(job)
            for name in kept:
                alone, both = [row[e, name, 1] for e in ("fio", "raw")], [row[e, name, 2] for e in ("fio", "raw")]
                kept[name].append(both[0] / alone[0] / (both[1] / alone[1]))
                absolute[name].append(both[0] / both[1])
        self.cache.unlink()
        for name, what in (("r", "reader"), ("w", "writer")):
            self.show(f"the {what} beside the other against alone, of the bound's (fence: each)", kept[name])
            self.show(f"the {what} beside the other against the bound's beside the other", absolute[name])

    @staticmethod
    def resident():
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024

    def memory(self):
        extents, = self.scaled(1 << 20)
        self.sparse(extents * 4096)
        for data_crc in (0, 1):
            self.cache.unlink(missing_ok=True)
            with Cache(self.cache, self.backing, cache_size=self.cache_size(6 * GIB), data_crc=data_crc,
                       **NO_WRITEBACK, **SILENT) as cache:
                offsets = random.Random(1).sample(range(extents), extents)
                before = self.resident()
                done, error = cache.queue.write_each((page * 4096 for page in offsets), bytes(4096))
                assert (done, error) == (extents, 0)
                what, each = f"{extents} extents of 4 KiB, data_crc {data_crc}", (self.resident() - before) / extents
                print(f"  {what}: {each:.1f} bytes each, all told", flush=True)
                self.record.keep(f"{what}, each, all told", [each], "bytes")
        self.cache.unlink()

    def attach(self):
        over, space, keys = self.scaled(8 << 40, 4 * GIB, 4 << 20)
        self.sparse(over)
        before = self.resident()
        with Cache(self.cache, self.backing, cache_size=self.cache_size(GIB), persist="flushcache", **SILENT):
            resident = (self.resident() - before) / MIB
            print(f"  empty, over {size_text(over)}: {resident:.1f} MiB", flush=True)
            self.record.keep(f"empty, over {size_text(over)}", [resident], "MiB")
        self.cache.unlink()
        self.sparse(space)
        size = self.cache_size(4 * GIB)
        self.fio(self.common("fio", size, **NO_WRITEBACK), {"rw": "randwrite", "bs": 512, "size": keys * 512})
        full, empty = [], []
        for _ in range(self.rounds):
            for path, times in ((self.cache, full), (self.cache.with_suffix(".empty"), empty)):
                begin = time.monotonic()
                with Cache(path, self.backing, cache_size=size, persist="flushcache", **NO_WRITEBACK, **SILENT):
                    times.append(time.monotonic() - begin)
        self.cache.with_suffix(".empty").unlink()
        self.cache.unlink()
        self.show(f"{text(keys, '', 'Ki', 'Mi')} keys of 512 B, seconds", full, unit="s")
        self.show("the same size empty, once its pages exist, seconds", empty[1:], unit="s")

    def foreground(self):
        """Whatever writes to the disk takes from who stores beside it, by its interrupts: from the bound, too."""
        size, seen, written = self.cache_size(8 * GIB), [], []
        part, space = self.scaled(256 * MIB, 2 * GIB)
        job = {"name": "hits", "rw": "randwrite", "size": part, "io_size": 2 * space, "norandommap": 1, "exitall": 1}
        disk = {"name": "disk", "ioengine": "io_uring", "fixedbufs": 1, "direct": 1, "iodepth": 32, "rw": "randwrite",
                "size": space, "time_based": 1, "runtime": "60s"}
        status = self.folder / "status"
        self.written(space)
        for number in range(self.rounds):
            row = {}
            for engine, beside in random.Random(number).sample([(e, b) for e in ("fio", "raw") for b in (0, 1)], 4):
                self.fill(size, space)
                if engine == "fio":
                    more = {"writeback_interval_ms": 1 if beside else 3600000, "gc_percent": 90,
                            "stats_file": status.name}
                    found = self.fio(self.common(engine, size, **more), job)
                else:
                    self.blank()
                    apart = {"filename": self.backing.name, "thread": 1, "bs": "4k", "gtod_reduce": 1, "randrepeat": 0}
                    found = self.fio(apart, {**self.common(engine, size, fence="none"), **job}, *[disk][:beside])
                row[engine, beside] = iops(found["hits"])
                if (engine, beside) == ("fio", 1):
                    written.append(json.loads(status.read_text(encoding="utf-8"))["writeback"]["bytes"] / MIB)
            seen.append(row)
        self.cache.unlink()
        self.show("write hits while writeback runs, against without",
                  [row["fio", 1] / row["fio", 0] for row in seen],
                  f"; {statistics.median(written):.0f} MiB written back meanwhile")
        self.show("the bound (fence: none) while fio writes to the disk at depth 32, against without",
                  [row["raw", 1] / row["raw", 0] for row in seen])
        self.show("write hits while writeback runs, against the bound while fio writes",
                  [row["fio", 1] / row["raw", 1] for row in seen])
        self.record.keep("written back meanwhile", written, "MiB")

    def miss(self):
        space, volume = self.scaled(4 * GIB, GIB)
        self.written(space)
        speed, cpu = [], []
        job = {"rw": "randread", "iodepth": 32, "size": space, "io_size": volume}
        for number in range(self.rounds):
            row = {}
            for engine in random.Random(number).sample(["fio", "io_uring"], 2):
                self.cache.unlink(missing_ok=True)
                common = self.common("fio", self.cache_size(3 * GIB)) if engine == "fio" else {
                    "ioengine": "io_uring", "fixedbufs": 1, "direct": 1, "filename": self.backing.name, "thread": 1,
                    "bs": "4k", "gtod_reduce": 1, "randrepeat": 0}
                row[engine] = self.fio(common, job)["job"]
            speed.append(iops(row["fio"]) / iops(row["io_uring"]))
            cpu.append(cpu_each(row["fio"]) / cpu_each(row["io_uring"]))
        self.cache.unlink(missing_ok=True)
        self.show("requests per second", speed)
        self.show("CPU time of a request", cpu)

    @contextlib.contextmanager
    def lent(self):
        """To the bound, which refuses a cache: for reading alone. The cache is there again afterwards."""
        with open(self.cache, "r+b", buffering=0) as file:
            start = file.read(4 * MIB)
            yield
            file.seek(0)
            file.write(start)

    def fragments(self, part=None):
        part = part or self.scaled(256 * MIB)[0]
        self.sparse(part)
        size, status = LEAST_CACHE + 6 * part, self.folder / "status"
        before, again = "before", "after 4 KiB again"
        parts = {f"after {n:g} of 512 B a page": n for n in (1 / 8, 1, 4, 16)}
        states = [before, *parts, again]
        seen, index = [], {state: [] for state in states}
        for number in range(self.rounds):
            self.fill(size, part)
            row, written = {}, 0
            for state in states:
                if state in parts:
                    more = round((parts[state] - written) * part / PAGE) * 512
                    job = {"rw": "randwrite", "bs": 512, "size": part, "io_size": more, "norandommap": 1}
                    self.fio(self.common("fio", size, **NO_WRITEBACK), job)
                    written = parts[state]
                elif state == again:
                    job = {"rw": "randwrite", "size": part}  # each page once
                    self.fio(self.common("fio", size, **NO_WRITEBACK), job)
                for engine in random.Random(number).sample(["fio", "raw"], 2):
                    more = {"stats_file": status.name} if engine == "fio" else {}
                    with self.lent() if engine == "raw" else contextlib.nullcontext():
                        row[state, engine] = self.hits(engine, size, "randread", part, 4 * part, **more)
                memory = json.loads(status.read_text(encoding="utf-8"))["index"]["memory_bytes"]
                index[state].append(memory / (part / PAGE))
            seen.append(row)
        self.cache.unlink()
        for state in states:
            self.show(f"{state}: 4 KiB reads against the bound", [r[state, "fio"] / r[state, "raw"] for r in seen])
        for state in states[1:]:
            self.show(f"{state}: a read takes so many times as long as before, the bound's as often",
                      [r[before, "fio"] / r[before, "raw"] / (r[state, "fio"] / r[state, "raw"]) for r in seen])
        for state in states:
            self.show(f"{state}: bytes of index a page", index[state], unit="bytes")

    def spread(self, pages=None):
        """Over a file of memory: a disk's file system may not take one of 1 PiB."""
        pages = pages or self.scaled(1 << 18)[0]
        wide, widest = self.scaled(1 << 40, 1 << 50)
        backing = self.cache.with_suffix(".backing")
        with open(backing, "wb") as file:
            file.truncate(widest)
        for what, span in (("side by side", pages * PAGE), (f"over {size_text(wide)}", wide),
                           (f"over {size_text(widest)}", widest)):
            offsets = random.Random(1).sample(range(span // PAGE), pages)
            empty = self.resident()
            with Cache(self.cache, backing, cache_size=LEAST_CACHE + 2 * pages * PAGE, **NO_WRITEBACK,
                       **SILENT) as cache:
                before = self.resident()
                assert cache.queue.write_each((page * PAGE for page in offsets), bytes(PAGE)) == (pages, 0)
                self.show(f"{pages} pages {what}: bytes of index each",
                          [cache.status["index"]["memory_bytes"] / pages], unit="bytes")
                self.show(f"{pages} pages {what}: bytes each, all told", [(self.resident() - before) / pages],
                          unit="bytes")
            self.cache.unlink()
        backing.unlink()
        self.show(f"empty, over {size_text(widest)}, MiB", [(before - empty) / MIB], unit="MiB")

    @staticmethod
    def cpu_ns():
        """Of all threads of this process."""
        tasks = pathlib.Path("/proc/self/task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)

    @staticmethod
    def reclaimed(cache, keys):
        """Waits until there are none left of so many."""
        deadline = time.monotonic() + RECLAIM_SECONDS
        while (done := cache.status["reclaim"]["keys"]) < keys:
            if time.monotonic() > deadline:
                raise Refused(f"keys: {done} of {keys} keys are reclaimed after {RECLAIM_SECONDS} s")
            time.sleep(0.002)

    def keys(self, pages=None):
        pages = pages or self.scaled(1 << 18)[0]
        for what, times in (("each page once", 1), ("each page 32 times", 32)):
            part = pages // times
            self.written(part * PAGE)
            writeback, reclaim = [], []
            for number in range(self.rounds):
                with Cache(self.cache, self.backing, cache_size=LEAST_CACHE + 2 * pages * PAGE, **NO_WRITEBACK,
                           **SILENT, prefault=PREFAULT_ATTACH) as cache:  # a thread that ends takes its time along
                    for turn in range(times):
                        order = random.Random(number * times + turn).sample(range(part), part)
                        assert cache.queue.write_each((page * PAGE for page in order), bytes(PAGE)) == (part, 0)
                    begin = self.cpu_ns()
                    cache.drain()
                    writeback.append((self.cpu_ns() - begin) / pages)
                    done, begin = cache.status["reclaim"]["keys"], self.cpu_ns()
                    cache.set_gc_percent(0)
                    self.reclaimed(cache, pages)
                    reclaim.append((self.cpu_ns() - begin) / max(pages - done, 1))
                self.cache.unlink()
            self.show(f"writeback, {what}, ns of CPU a key", writeback, unit="ns")
            self.show(f"reclaim, {what}, ns of CPU a key", reclaim, unit="ns")


def check_place(what, divisor, shm, folder):
    """Before anything is made there."""
    takes = [TAKES[one] for one in what]
    check([(number * cache_size(size, divisor), below // divisor) for number, size, below in takes], shm, folder,
          "--dir, --shm, --small")
    check_fio(BUILD, "fio", "raw")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="all, if none is given: " + ", ".join(TAKES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true",
                        help=f"1/{SMALL} of all sizes: to see that it runs, the figures mean little")
    parser.add_argument("--dir", type=pathlib.Path, default="/var/tmp", help="of the backing file")
    parser.add_argument("--shm", type=pathlib.Path, default="/dev/shm", help="of the file for pmem")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="what is printed, and all values, as JSON")
    args = parser.parse_args(arguments)
    if unknown := [what for what in args.what if what not in TAKES]:
        parser.error(f"{unknown[0]}: expected {', '.join(TAKES)}")
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: expected 2 or more")
    if args.out and args.small:
        parser.error("--out with --small: expected one of them, figures of --small are not worth keeping")
    if args.out and (args.out.exists() and not args.out.is_file() or
                     not os.access(args.out.absolute().parent, os.W_OK)):
        parser.error(f"--out {args.out}: expected a file in a folder that can be written to")
    what, divisor = args.what or list(TAKES), SMALL if args.small else 1
    check_place(what, divisor, args.shm, args.dir)
    with made_in(args.dir, args.shm) as (folder, shm):
        try:
            record = Record(BUILD, args.rounds, folder)
        except Wrong as wrong:
            raise Refused(wrong) from None
        bench = Bench(folder, shm, args.rounds, record, divisor)
        for one in what:
            record.begin(one)
            getattr(bench, one)()
    if args.out:
        record.store(args.out)


if __name__ == "__main__":
    ended_in_one_line("limits.py", main)
