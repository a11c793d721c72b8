# SPDX-License-Identifier: GPL-2.0-or-later
"""fragments: 4 KiB read hits after the pages were overwritten by 512 B, against before; the index's memory.

Bound: libpcache_raw.so, which loads the same bytes of the same file between the rounds of writing.
"""
import contextlib
import json
import random

from ..sizes import MIB
from .rig import LEAST_CACHE, NO_WRITEBACK, PAGE, Takes

TAKES = Takes(cache_bytes=2 << 30)
BEFORE, AGAIN = "before", "after 4 KiB again"
SMALL_WRITES = {f"after {n:g} of 512 B a page": n for n in (1 / 8, 1, 4, 16)}
STATES = [BEFORE, *SMALL_WRITES, AGAIN]


def measure(rig, part=None):
    part = part or rig.scaled(256 * MIB)[0]
    rig.make_sparse_backing(part)
    size = LEAST_CACHE + 6 * part
    rounds, index = [], {state: [] for state in STATES}
    for number in range(rig.rounds):
        rig.fill_new_cache(size, part)
        found, written = {}, 0
        for state in STATES:
            written = bring_to(rig, state, size, part, written)
            for engine in random.Random(number).sample(["fio", "raw"], 2):
                found[state, engine] = read_hits(rig, engine, size, part)
            memory = json.loads(rig.status.read_text(encoding="utf-8"))["index"]["memory_bytes"]
            index[state].append(memory / (part / PAGE))
        rounds.append(found)
    rig.cache.unlink()
    for state in STATES:
        rig.show(f"{state}: 4 KiB reads against the bound", [r[state, "fio"] / r[state, "raw"] for r in rounds])
    for state in STATES[1:]:
        rig.show(f"{state}: a read takes so many times as long as before, the bound's as often",
                 [r[BEFORE, "fio"] / r[BEFORE, "raw"] / (r[state, "fio"] / r[state, "raw"]) for r in rounds])
    for state in STATES:
        rig.show(f"{state}: bytes of index a page", index[state], unit="bytes")


def bring_to(rig, state, size, part, written):
    """`written` writes of 512 B a page were made before; how many it are now."""
    if state in SMALL_WRITES:
        more = round((SMALL_WRITES[state] - written) * part / PAGE) * 512
        job = {"rw": "randwrite", "bs": 512, "size": part, "io_size": more, "norandommap": 1}
        rig.fio(rig.over_cache("fio", size, **NO_WRITEBACK), job)
        return SMALL_WRITES[state]
    if state == AGAIN:
        rig.fio(rig.over_cache("fio", size, **NO_WRITEBACK), {"rw": "randwrite", "size": part})  # each page once
    return written


def read_hits(rig, engine, size, part):
    more = {"stats_file": rig.status.name} if engine == "fio" else {}
    with rig.lent_cache() if engine == "raw" else contextlib.nullcontext():
        return rig.hits(engine, size, "randread", part, 4 * part, **more)
