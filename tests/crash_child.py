# SPDX-License-Identifier: GPL-2.0-or-later
"""A process for test_reopen.py to kill: works on a cache and says on stdout what it does.

Lines, each written before the next call: `open` when the cache is attached, `w OFF LEN TAG DURABLE` before
a write, `a` when the last write is acknowledged, `f` before and `F` after a flush, `done` at the end.
A writer that has said `done` stays until it is killed.
"""

import json
import os
import random
import sys

from measure import libpcache
from measure.libpcache import FUA, MIB, PREFLUSH, Cache
from support import SECTOR, stamp


def say(line):
    os.write(1, line.encode() + b"\n")


def mixed(cache, want, rng, tag):
    """Writes of all sizes, one in eight FUA, a flush now and then, reads that leave CLEAN keys."""
    for _ in range(want["steps"]):
        roll = rng.random()
        length = SECTOR * rng.choice([1, 1, 1, 2, 3, 8, 8, 16, 65, 256])
        off = rng.randrange(0, want["size"] - length + SECTOR, SECTOR)
        if roll < 0.05:
            say("f")
            cache.flush()
            say("F")
        elif roll < 0.25:
            cache.read(off, length)
        else:
            tag += 1
            flags = rng.choice([0, 0, 0, 0, 0, 0, FUA, PREFLUSH, FUA | PREFLUSH])
            say(f"w {off} {length} {tag} {flags}")
            cache.write(off, stamp(off, length, tag), flags=flags)
            say("a")


def small(cache, want, rng, tag):
    """Single sectors of one 4 MiB range, so that its kset fills (128 keys) again and again."""
    for i in range(want["steps"]):
        off = rng.randrange(0, 4 * MIB, SECTOR)
        tag += 1
        say(f"w {off} {SECTOR} {tag} 0")
        cache.write(off, stamp(off, SECTOR, tag))
        say("a")
        if i % 300 == 299:
            say("f")
            cache.flush()
            say("F")


def main():
    want = json.loads(sys.argv[1])
    if "build" in want:
        libpcache.BUILD = want["build"]
    options = want.get("options", {})
    cache = Cache(want["cache"], want["backing"], **options)
    say("open")
    body = {"mixed": mixed, "small": small, "open": lambda *_: None}[want["body"]]
    body(cache, want, random.Random(want["seed"]), want["tag"])
    say("done")
    sys.stdin.read()


main()
