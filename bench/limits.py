#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sweep of equal jobs cannot show: the cache's other limits, each beside its bound in the same run.

    bench/limits.py [large] [beside] [memory] [attach] [foreground] [miss] [--rounds N] [--dir DIR] [--shm DIR]

    large       4 KiB hits in 8 GiB (2 Mi extents) against 256 MiB, and against the bound over the same 8 GiB
    beside      a reader and a writer of the same 4 MiB, against each alone, and the bound's
    memory      resident memory for each cached 4 KiB extent, without the mapping
    attach      of an empty cache over 8 TiB: memory; of 4 Mi keys: time
    foreground  what write hits lose while writeback runs
    miss        4 KiB read misses at depth 32 against fio's io_uring engine on the same file, and their CPU time

Needs 12 GiB in the folder for pmem (large), 8 GiB elsewhere. Prints medians with their range.
"""

import argparse
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
sys.path.insert(0, str(ROOT / "tests"))

from libpcache import BUILD, MIB, Cache  # noqa: E402

GIB = 1 << 30
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
    def __init__(self, folder, shm, rounds):
        self.rounds = rounds
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

    def show(self, what, ratios, note=""):
        print(f"  {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), n {len(ratios)}"
              f"{note}", flush=True)

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
                print(f"  {extents} extents of 4 KiB, data_crc {data_crc}: {(self.resident() - before) / extents:.1f} "
                      "bytes each, all told", flush=True)
        self.cache.unlink()

    def attach(self):
        self.sparse(8 << 40)
        before = self.resident()
        with Cache(self.cache, self.backing, cache_size=GIB, persist="flushcache"):
            print(f"  empty, over 8 TiB: {(self.resident() - before) / MIB:.1f} MiB")
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
        self.show("4 Mi keys of 512 B, seconds", full)
        self.show("the same size empty, once its pages exist, seconds", empty[1:])

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


def main():
    everything = ["large", "beside", "memory", "attach", "foreground", "miss"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="all, if none is given: " + ", ".join(everything))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default="/var/tmp", help="of the backing file")
    parser.add_argument("--shm", default="/dev/shm", help="of the file for pmem")
    args = parser.parse_args()
    if unknown := [what for what in args.what if what not in everything]:
        parser.error(f"{unknown[0]}: expected {', '.join(everything)}")
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: expected 2 or more")
    with tempfile.TemporaryDirectory(dir=args.dir) as folder, tempfile.TemporaryDirectory(dir=args.shm) as shm:
        bench = Bench(pathlib.Path(folder), pathlib.Path(shm), args.rounds)
        for what in args.what or everything:
            print(what, flush=True)
            getattr(bench, what)()


main()
