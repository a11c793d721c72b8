#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sweep of equal jobs cannot show: the cache's other limits, each beside its bound in the same run.

    bench/limits.py [large] [beside] [memory] [attach] [foreground] [miss] [fragments] [spread] [keys]
                    [--rounds N] [--dir DIR] [--shm DIR] [--out FILE]

    large       4 KiB hits in 8 GiB (2 Mi extents) against 256 MiB, and against the bound over the same 8 GiB
    beside      a reader and a writer of the same 4 MiB, against each alone, and the bound's
    memory      resident memory for each cached 4 KiB extent, without the mapping
    attach      of an empty cache over 8 TiB: memory; of 4 Mi keys: time
    foreground  what write hits lose while writeback runs
    miss        4 KiB read misses at depth 32 against fio's io_uring engine on the same file, and their CPU time
    fragments   4 KiB read hits after the pages were overwritten by 512 B, against before; the index's memory
    spread      memory of the index for each 4 KiB page, by how far apart the pages lie, up to 1 PiB
    keys        CPU time of writeback and of reclaim for each key, data that was superseded and data that was not

Needs 12 GiB in the folder for pmem (large), 8 GiB elsewhere. Prints medians with their range; --out keeps them, and all
values, as JSON (results/README.md).
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
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from libpcache import BUILD, MIB, Cache  # noqa: E402
from record import Record, Wrong  # noqa: E402

GIB = 1 << 30
PAGE = 4096
NO_WRITEBACK = {"writeback_interval_ms": 3600000, "gc_percent": 90}


def fio(common, *jobs):
    """Runs the jobs, dicts of fio's options, in one process at a time; {name: fio's JSON of the job}."""
    command = ["fio", "--output-format=json"]
    for job in jobs:
        options = {**common, **job}
        command += [f"--name={options.pop('name', 'job')}", f"--ioengine={options.pop('ioengine')}"]
        command += [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"limits.py: fio: {done.stderr.strip() or done.stdout.strip()}")
    out = done.stdout
    found = {job["jobname"]: job for job in json.loads(out[out.index("{"):])["jobs"]}
    assert all(job["error"] == 0 for job in found.values())
    return found


def iops(job):
    return job["read"]["iops"] + job["write"]["iops"]


class Bench:
    def __init__(self, folder, shm, rounds, record):
        self.rounds = rounds
        self.record, self.show = record, record.show
        self.folder = folder
        self.cache = shm / "cache"
        self.backing = folder / "backing"

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
        return {"ioengine": f"external:{BUILD}/lib/libpcache_{engine}.so", "cache_dev": self.cache,
                "cache_size": size, "emulate_pmem": 1, "persist": "flushcache", "filename": self.backing,
                "thread": 1, "bs": "4k", "gtod_reduce": 1, "randrepeat": 0, **more}

    def hits(self, engine, cache_bytes, rw, size, io_size, **more):
        tuned = NO_WRITEBACK if engine == "fio" else {}
        if engine == "raw":
            self.blank()
        job = {"rw": rw, "size": size, "io_size": io_size, "norandommap": 1, **more}
        return iops(fio(self.common(engine, cache_bytes, **tuned), job)["job"])

    def fill(self, cache_bytes, size):
        self.cache.unlink(missing_ok=True)
        fio(self.common("fio", cache_bytes, **NO_WRITEBACK), {"rw": "randwrite", "size": size})

    def blank(self):
        """The bound refuses a device that holds a cache; its pages stay where they are."""
        if self.cache.exists():
            with open(self.cache, "r+b") as file:
                file.write(bytes(4 * MIB))

    def large(self):
        self.sparse(8 * GIB)
        size, small, big, volume = 11 * GIB, 256 * MIB, 8 * GIB, GIB
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
            self.show(f"{rw}, 8 GiB against 256 MiB", [r[rw, big] / r[rw, small] for r in seen])
            for fence in fences:
                self.show(f"{rw}, 8 GiB against the bound (fence: {fence}) over 8 GiB",
                          [r[rw, big] / r[rw, fence, big] for r in seen])
                self.show(f"the bound (fence: {fence}), 8 GiB against 256 MiB",
                          [r[rw, fence, big] / r[rw, fence, small] for r in seen])

    def beside(self):
        self.sparse(GIB)
        size, part = 6 * GIB, 4 * MIB
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
                    for name, job in fio(self.common(engine, size, **more), *jobs).items():
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
        extents = 1 << 20
        self.sparse(extents * 4096)
        for data_crc in (0, 1):
            self.cache.unlink(missing_ok=True)
            with Cache(self.cache, self.backing, cache_size=6 * GIB, data_crc=data_crc, **NO_WRITEBACK) as cache:
                offsets = random.Random(1).sample(range(extents), extents)
                before = self.resident()
                done, error = cache.queue.write_each((page * 4096 for page in offsets), bytes(4096))
                assert (done, error) == (extents, 0)
                what, each = f"{extents} extents of 4 KiB, data_crc {data_crc}", (self.resident() - before) / extents
                print(f"  {what}: {each:.1f} bytes each, all told", flush=True)
                self.record.keep(f"{what}, each, all told", [each], "bytes")
        self.cache.unlink()

    def attach(self):
        self.sparse(8 << 40)
        before = self.resident()
        with Cache(self.cache, self.backing, cache_size=GIB, persist="flushcache"):
            resident = (self.resident() - before) / MIB
            print(f"  empty, over 8 TiB: {resident:.1f} MiB")
            self.record.keep("empty, over 8 TiB", [resident], "MiB")
        self.cache.unlink()
        self.sparse(4 * GIB)
        size, keys = 4 * GIB, 4 << 20
        fio(self.common("fio", size, **NO_WRITEBACK), {"rw": "randwrite", "bs": 512, "size": keys * 512})
        full, empty = [], []
        for _ in range(self.rounds):
            for path, times in ((self.cache, full), (self.cache.with_suffix(".empty"), empty)):
                begin = time.monotonic()
                with Cache(path, self.backing, cache_size=size, persist="flushcache", **NO_WRITEBACK):
                    times.append(time.monotonic() - begin)
        self.cache.with_suffix(".empty").unlink()
        self.cache.unlink()
        self.show("4 Mi keys of 512 B, seconds", full, unit="s")
        self.show("the same size empty, once its pages exist, seconds", empty[1:], unit="s")

    def foreground(self):
        self.written(2 * GIB)
        size, ratios, written = 8 * GIB, [], []
        for number in range(self.rounds):
            row = {}
            for interval in random.Random(number).sample([3600000, 1], 2):
                self.fill(size, 2 * GIB)
                job = {"rw": "randwrite", "size": 256 * MIB, "io_size": 2 * GIB, "norandommap": 1}
                status = self.folder / "status"
                more = {"writeback_interval_ms": interval, "gc_percent": 90, "stats_file": status}
                row[interval] = iops(fio(self.common("fio", size, **more), job)["job"])
                if interval == 1:
                    written.append(json.loads(status.read_text(encoding="utf-8"))["writeback"]["bytes"] / MIB)
            ratios.append(row[1] / row[3600000])
        self.cache.unlink()
        self.show("write hits while writeback runs, against without", ratios,
                  f"; {statistics.median(written):.0f} MiB written back meanwhile")
        self.record.keep("written back meanwhile", written, "MiB")

    def miss(self):
        self.written(4 * GIB)
        speed, cpu = [], []
        job = {"rw": "randread", "iodepth": 32, "size": 4 * GIB, "io_size": GIB}
        for number in range(self.rounds):
            row = {}
            for engine in random.Random(number).sample(["fio", "io_uring"], 2):
                self.cache.unlink(missing_ok=True)
                common = self.common("fio", 3 * GIB) if engine == "fio" else {
                    "ioengine": "io_uring", "fixedbufs": 1, "direct": 1, "filename": self.backing, "thread": 1,
                    "bs": "4k", "gtod_reduce": 1, "randrepeat": 0}
                row[engine] = fio(common, job)["job"]
            speed.append(iops(row["fio"]) / iops(row["io_uring"]))
            cpu.append((row["fio"]["usr_cpu"] + row["fio"]["sys_cpu"]) / iops(row["fio"]) /
                       ((row["io_uring"]["usr_cpu"] + row["io_uring"]["sys_cpu"]) / iops(row["io_uring"])))
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

    def fragments(self, part=256 * MIB):
        self.sparse(part)
        size, status = 512 * MIB + 6 * part, self.folder / "status"
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
                    self.hits("fio", size, "randwrite", part, more, bs=512)
                    written = parts[state]
                elif state == again:
                    job = {"rw": "randwrite", "size": part}  # each page once
                    fio(self.common("fio", size, **NO_WRITEBACK), job)
                for engine in random.Random(number).sample(["fio", "raw"], 2):
                    more = {"stats_file": status} if engine == "fio" else {}
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

    def spread(self, pages=1 << 18):
        """Over a file of memory: a disk's file system may not take one of 1 PiB."""
        backing, span = self.cache.with_suffix(".backing"), pages * PAGE
        with open(backing, "wb") as file:
            file.truncate(1 << 50)
        for what, span in (("side by side", span), ("over 1 TiB", 1 << 40), ("over 1 PiB", 1 << 50)):
            offsets = random.Random(1).sample(range(span // PAGE), pages)
            empty = self.resident()
            with Cache(self.cache, backing, cache_size=512 * MIB + 2 * pages * PAGE, **NO_WRITEBACK) as cache:
                before = self.resident()
                assert cache.queue.write_each((page * PAGE for page in offsets), bytes(PAGE)) == (pages, 0)
                self.show(f"{pages} pages {what}: bytes of index each",
                          [cache.status["index"]["memory_bytes"] / pages], unit="bytes")
                self.show(f"{pages} pages {what}: bytes each, all told", [(self.resident() - before) / pages],
                          unit="bytes")
            self.cache.unlink()
        backing.unlink()
        self.show("empty, over 1 PiB, MiB", [(before - empty) / MIB], unit="MiB")

    @staticmethod
    def cpu_ns():
        """Of all threads of this process."""
        tasks = pathlib.Path("/proc/self/task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)

    def keys(self, pages=1 << 18):
        for what, times in (("each page once", 1), ("each page 32 times", 32)):
            part = pages // times
            self.written(part * PAGE)
            writeback, reclaim = [], []
            for number in range(self.rounds):
                with Cache(self.cache, self.backing, cache_size=512 * MIB + 2 * pages * PAGE,
                           **NO_WRITEBACK) as cache:
                    for turn in range(times):
                        order = random.Random(number * times + turn).sample(range(part), part)
                        assert cache.queue.write_each((page * PAGE for page in order), bytes(PAGE)) == (part, 0)
                    begin = self.cpu_ns()
                    cache.drain()
                    writeback.append((self.cpu_ns() - begin) / pages)
                    done, begin = cache.status["reclaim"]["keys"], self.cpu_ns()
                    cache.set_gc_percent(0)
                    while cache.status["reclaim"]["keys"] < pages:
                        time.sleep(0.002)
                    reclaim.append((self.cpu_ns() - begin) / max(pages - done, 1))
                self.cache.unlink()
            self.show(f"writeback, {what}, ns of CPU a key", writeback, unit="ns")
            self.show(f"reclaim, {what}, ns of CPU a key", reclaim, unit="ns")


def main(arguments=None):
    everything = ["large", "beside", "memory", "attach", "foreground", "miss", "fragments", "spread", "keys"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="all, if none is given: " + ", ".join(everything))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default="/var/tmp", help="of the backing file")
    parser.add_argument("--shm", default="/dev/shm", help="of the file for pmem")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="what is printed, and all values, as JSON")
    args = parser.parse_args(arguments)
    if unknown := [what for what in args.what if what not in everything]:
        parser.error(f"{unknown[0]}: expected {', '.join(everything)}")
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: expected 2 or more")
    if args.out and (args.out.is_dir() or not os.access(args.out.absolute().parent, os.W_OK)):
        parser.error(f"--out {args.out}: expected a file in a folder that can be written to")
    with tempfile.TemporaryDirectory(dir=args.dir) as folder, tempfile.TemporaryDirectory(dir=args.shm) as shm:
        try:
            record = Record(BUILD, args.rounds, folder)
        except Wrong as wrong:
            sys.exit(f"limits.py: {wrong}")
        bench = Bench(pathlib.Path(folder), pathlib.Path(shm), args.rounds, record)
        for what in args.what or everything:
            record.begin(what)
            getattr(bench, what)()
    if args.out:
        record.store(args.out)


if __name__ == "__main__":
    main()
