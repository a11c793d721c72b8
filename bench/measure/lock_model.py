# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks and cache lines of many threads: a discrete model of 4 KiB hits, for machines that are not here.

    bench/simulate.py [--threads 1,2,4] [--stripes 16,128,1024] [--reads PERCENT] [--locks-alone]
                      [--milliseconds N] [--seed N]

Each thread has 128 MiB: of its own, or all threads share all of them. A write stores a page, takes the lock of its
stripe (core/base/ids.h) and changes the lines that the code changes: stripe, shard's sequence, slot, kset, the map of
open ksets, and after 128 keys of a stripe the log's head. A stripe becomes biased to a thread as in
core/base/biased_mutex.h, and then needs neither a fence nor a locked instruction. Machine has the costs.

Prints million requests a second, and how far the model is off what results/sweeps/fast-path has of 1 and 2 threads: off
the nearer end of the interval of its median.
"""

import argparse
import dataclasses
import heapq
import random

from .estimates import estimate
from .pcache_sweep import ROOT
from .run_folder import Run

PAGE, RANGE, REGION, PART = 4 << 10, 4 << 20, 128 << 20, 128 << 20  # PART: of a thread
KEYS, KEY_BYTES, HEADER_BYTES, LINE, FIRST_STREAK, MOST_STREAK = 128, 40, 24, 64, 32, 1024


@dataclasses.dataclass(frozen=True)
class Machine:
    """Nanoseconds, and bytes a nanosecond (GB/s). [m]: measured, EPYC 9005, 2 CPUs of one CCX; by
    results/sweeps/fast-path where it says sweep. [l]: literature, not measured."""
    write: float = 119         # [m] sweep: 124 a write of one thread, less its share of a commit
    read: float = 514          # [m] sweep: a read of one thread
    drain: float = 149         # [m] sweep: the bound that fences each store, less the one that never does
    bound_write: float = 118   # [m] sweep: the bound that never fences
    bound_read: float = 412    # [m] sweep
    commit: float = 302        # [m] pcache-microbench: 600 for a kset of 128 keys, less the fences
    commit_fences: float = 298  # [m] two of drain: of a group
    line_near: float = 45      # [m] a word to and fro between the two CPUs, one way: 39 at least, 47 the median
    line_far: float = 110      # [l] another CCX of the socket: published tables of EPYC 7002 to 9005, about 90 to 150
    line_socket: float = 220   # [l] the other socket: the same, about 190 to 260
    barrier: float = 2000      # [m] membarrier to threads that run: 1 to 3 us
    spin: float = 2000         # [l] 100 pauses of base/mutex.cc: 20 ns each on Zen 5; then it sleeps
    wake: float = 5000         # [l] a futex, to sleep and to be woken
    ccx_store: float = 42.9    # [m] sweep: two threads of the bound that never fences; that of a CCX [l]
    ccx_load: float = 60       # [l] two threads here load 16 and are not bound by it
    socket: float = 460        # [l] 12 channels of DDR5-6000, 0.8 of the peak
    ccx_cores: int = 8         # [l] EPYC 9005
    socket_cores: int = 32     # two of them: 64 cores


def stripe_number(number):
    """core/base/ids.h."""
    return number // (REGION // RANGE) * 8 + number % 8


class Stripe:
    def __init__(self):
        self.free, self.keys, self.streak, self.needed = 0.0, 0, 0, FIRST_STREAK
        self.biased_to = self.last = None


class Model:
    """`kind`: cache, or a bound: none (never fences), each (fences each store)."""

    def __init__(self, machine, threads, stripes, shared, reads=0, kind="cache", seed=1):
        self.machine, self.threads, self.shared, self.reads = machine, threads, shared, reads
        self.kind, self.seed = kind, seed
        self.stripes = [Stripe() for _ in range(stripes)]
        self.group_start = self.group_end = 0.0  # of the last group of ksets that the log takes
        self.writer = {}  # line -> the core that has it
        self.memory = {}  # (what, number) -> when it has done what it was given

    def line(self, core, *name):
        """What it costs to get a line for writing; it is this core's then."""
        before, m = self.writer.get(name, core), self.machine
        self.writer[name] = core
        if before == core:
            return 0
        if before // m.socket_cores != core // m.socket_cores:
            return m.line_socket
        return m.line_near if before // m.ccx_cores == core // m.ccx_cores else m.line_far

    def moved(self, core, now, nanoseconds, load):
        """When a page is stored or loaded that takes so long alone; it passes the link of its CCX and the memory."""
        m, done = self.machine, now + nanoseconds
        link = ("load", m.ccx_load) if load else ("store", m.ccx_store)
        for part, rate in (((link[0], core // m.ccx_cores), link[1]), (("socket", core // m.socket_cores), m.socket)):
            self.memory[part] = max(self.memory.get(part, 0), now) + PAGE / rate
            done = max(done, self.memory[part])
        return done

    def revoke(self, stripe):
        stripe.biased_to, stripe.last, stripe.streak = None, None, 0
        stripe.needed = min(stripe.needed * 2, MOST_STREAK)
        return self.machine.barrier

    def lock(self, lock, core, now):
        """(when this core has it, which it is not biased to; what it sleeps longer, while others have it)."""
        m, slept = self.machine, 0
        if lock.biased_to is not None:
            now += self.revoke(lock)
        if lock.free > now:
            slept = m.wake if lock.free - now > m.spin else 0
            now = lock.free
        lock.streak = lock.streak + 1 if lock.last == core else 0
        lock.last = core
        if lock.streak >= lock.needed:
            lock.biased_to = core
        return now, slept

    def commit(self, core, now):
        """When a kset is durable: who comes while a group is written goes with the next."""
        m = self.machine
        if now > self.group_end:
            self.group_start = self.group_end = now
        if now >= self.group_start:
            self.group_start = self.group_end
            self.group_end += m.commit_fences
        self.group_end += m.commit
        slept = m.wake if self.group_start - now > m.spin else 0
        return self.group_end + slept + self.line(core, "log head") + self.line(core, "log queue")

    def write(self, core, page, now):
        """A generator of the times at which it meets the others; the last is its end."""
        m, where = self.machine, page * PAGE // RANGE
        number = stripe_number(where) % len(self.stripes)
        stripe = self.stripes[number]
        self.line(core, "slot", page // 8)  # fetched behind the store
        now = self.moved(core, now, m.write, load=False)
        biased = stripe.biased_to == core
        if not biased:
            now += m.drain
        yield now
        slept = 0
        if stripe.biased_to != core:
            now, slept = self.lock(stripe, core, now + (m.drain if biased else 0))
        first = HEADER_BYTES + stripe.keys * KEY_BYTES
        now += self.line(core, "stripe", number) + self.line(core, "sequence", where)
        last = first + KEY_BYTES - 1
        now += sum(self.line(core, "kset", number, n) for n in range(first // LINE, last // LINE + 1))
        stripe.keys = (stripe.keys + 1) % KEYS
        if stripe.keys < 2:
            now += self.line(core, "open map", number // LINE)
        stripe.free = now
        if stripe.keys == 0:
            yield now
            now = self.commit(core, now)
        yield now + slept

    def read(self, core, page, now):
        where = page * PAGE // RANGE
        stripe = self.stripes[stripe_number(where) % len(self.stripes)]
        if stripe.biased_to not in (None, core):  # settle()
            now += self.revoke(stripe)
        now += self.line(core, "sequence", where) + self.line(core, "slot", page // 8) if self.reads < 100 else 0
        yield self.moved(core, now, self.machine.read, load=True)

    def bound(self, core, _, now):
        m, load = self.machine, self.reads == 100
        done = self.moved(core, now, m.bound_read if load else m.bound_write, load)
        yield done + (m.drain if self.kind == "each" and not load else 0)

    def run(self, milliseconds):
        """Million requests a second, of the second half of the time."""
        end, done, pages = milliseconds * 1e6, 0, PART // PAGE
        heap = [(0.0, core, None) for core in range(self.threads)]
        dice = [random.Random(self.seed * 1000 + core) for core in range(self.threads)]
        while heap:
            now, core, request = heapq.heappop(heap)
            nxt = next(request, None) if request else None
            if nxt is None:  # it has ended
                done += request is not None and end / 2 < now <= end
                if now >= end:
                    continue
                first, count = (0, self.threads * pages) if self.shared else (core * pages, pages)
                page, load = first + dice[core].randrange(count), dice[core].randrange(100) < self.reads
                kind = self.bound if self.kind != "cache" else self.read if load else self.write
                request = kind(core, page, now)
                nxt = next(request)
            heapq.heappush(heap, (nxt, core, request))
        return done / (end / 2) * 1e3


def one_thread(machine):
    """Million writes a second, in closed form: no thread meets another, every lock is biased."""
    return 1e3 / (machine.write + (machine.commit + machine.commit_fences) / KEYS)


def measured(ranges, rw, threads, engine, fence=None):
    """Of million requests a second in results/sweeps/fast-path, 4 KiB: the median and its interval."""
    asked = {"engine": engine, "rw": rw, "numjobs": str(threads), "ranges": ranges, "bs": "4k", "fsync": "0",
             "data_crc": "0", "fence": fence}
    return estimate([s.metrics["iops"] / 1e6 for s in Run(ROOT / "results/sweeps/fast-path").samples
                     if all(s.case.values.get(k, v) == v for k, v in asked.items())])


def off(model, seen):
    """1: within the interval."""
    return model / min(max(model, seen.low), seen.high)


def validate(machine, milliseconds, seed):
    """Lines of (what, model, estimate of what was measured)."""
    found = []
    for threads, ranges in ((1, "shared"), (2, "own"), (2, "shared")):
        for what, kind, load in (("write", "cache", 0), ("bound, never fenced", "none", 0),
                                 ("bound, fenced", "each", 0), ("read", "cache", 100), ("bound, read", "none", 100)):
            model = Model(machine, threads, 128, ranges == "shared", load, kind, seed).run(milliseconds)
            engine, fence = ("pcache", None) if kind == "cache" else ("bound", "each" if load else kind)
            seen = measured(ranges, "randread" if load else "randwrite", threads, engine, fence)
            found.append((f"{threads}{', ' + ranges if threads > 1 else ''}: {what}", model, seen))
    return found


def numbers(text):
    found = [int(one) for one in text.split(",")]
    if not all(1 <= one <= 1024 for one in found):
        raise ValueError
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="simulate.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--stripes", type=numbers, default=[16, 128, 1024])
    parser.add_argument("--reads", type=int, choices=range(101), default=0, metavar="PERCENT", help="of the requests")
    parser.add_argument("--locks-alone", action="store_true", help="the memory and its links take all that is stored")
    parser.add_argument("--milliseconds", type=float, default=2, help="of the model's time")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    machine = Machine()
    if args.locks_alone:
        machine = dataclasses.replace(machine, ccx_store=1e9, ccx_load=1e9, socket=1e9)
    print("million 4 KiB requests a second" + (f", {args.reads} % of them reads" if args.reads else ", writes"))
    print(f"{'threads':>7}" + "".join(f"{f'{what} {n}':>12}" for what in ("own", "same") for n in args.stripes) +
          f"{'reads':>12}")
    for threads in args.threads:
        found = [Model(machine, threads, n, shared, args.reads, seed=args.seed).run(args.milliseconds)
                 for shared in (False, True) for n in args.stripes]
        found.append(Model(machine, threads, 128, True, 100, seed=args.seed).run(args.milliseconds))
        print(f"{threads:7}" + "".join(f"{one:12.1f}" for one in found), flush=True)
    print("\nof 1 and 2 threads: model, measured (results/sweeps/fast-path), how far off the interval")
    for what, model, seen in validate(Machine(), args.milliseconds, args.seed):
        print(f"  {what:<32}{model:6.2f}{seen.median:7.2f} ({seen.low:.2f} to {seen.high:.2f}, n {seen.n})"
              f"{off(model, seen):7.2f}")
