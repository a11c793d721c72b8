# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of replayed traces. Each function returns what Page.table() gives, or None: there is no trace."""
import pathlib

from ..estimates import estimate
from ..sizes import MIB
from . import published_traces
from .run_tables import microseconds
from .run_values import latency


def miss_ratios(values, page):
    """Of every access, beside those of two policies over the same requests, and beside what is known of the trace."""
    rows = []
    for case in _cases(values):
        replay = _Replay(values, case)
        if "hit_ratio" not in replay.first:
            continue
        model = replay.first.get("model", {})
        known = published_traces.miss_ratios(replay.name, replay.blocks, case.values.get("cache_share"))
        rows.append([replay.name + (f", the first {case.values['requests']}" if replay.is_cut else ""),
                     case.values.get("cache_share", ""), _share(replay.of("capacity_bytes"), replay.first["bytes"]),
                     _ratio(1 - replay.of("hit_ratio")),
                     *(_ratio(1 - model[policy]) if policy in model else "" for policy in ("fifo", "lru")),
                     *(map(_ratio, known) if known else [""] * len(published_traces.POLICIES))])
    head = ["trace", "share asked for", "kept", "here", "FIFO, computed", "LRU, computed", *published_traces.POLICIES]
    return page.table(f"{values.run.name}-miss-ratios", head, rows) if rows else None


def traffic(values, page):
    """What was read and written where, and how long it took."""
    rows = []
    for case in _cases(values):
        replay = _Replay(values, case)
        samples = values.run.of(case)
        timed = values.has_latency(case)
        rows.append([
            case.id, len(samples), *(_ratio(replay.of(name)) for name in
                                     ("read_hit_ratio", "whole_read_hits", "write_hit_ratio", "hit_ratio")),
            *(_mib(replay.of(name)) for name in ("bytes", "requested_bytes", "capacity_bytes", "cached_bytes",
                                                 "backing_read_bytes", "backing_written_bytes", "dirty_bytes",
                                                 "not_kept_bytes", "pmem_bytes")),
            _ratio(replay.of("write_amplification")),
            *(microseconds(estimate([latency(s, name) for s in samples]).median) if timed else ""
              for name in ("mean", "p50", "p99"))])
    head = ["case", "n", "read hits", "whole reads", "write hits", "all hits", "trace MiB", "requested MiB", "kept MiB",
            "cached at the end MiB", "from backing MiB", "to backing MiB", "left dirty MiB", "not kept MiB",
            "into pmem MiB", "write amplification", "mean µs", "p50 µs", "p99 µs"]
    return page.table(f"{values.run.name}-traces", head, rows) if rows else None


class _Replay:
    """A case's measurements."""

    def __init__(self, values, case):
        self.found = [s.metrics["replay"] for s in values.run.of(case)]
        self.first = self.found[0]
        self.name = pathlib.Path(case.trace).name.split(".")[0]
        facts = [f for f in values.run.info.get("traces", []) if f["trace"] == case.trace and
                 f["bytes"] == self.first["bytes"]]
        # Of requests that stay as they are, no part of a block is a block.
        self.blocks = facts[0]["blocks"] if facts and case.values["block_bytes"] != "0" else None
        self.is_cut = bool(facts) and facts[0]["is_cut"] and case.values["requests"] != "0"

    def of(self, name):
        """The median; None: it was not measured."""
        return estimate([one[name] for one in self.found]).median if all(name in one for one in self.found) else None


def _cases(values):
    return [case for case in values.run.cases
            if any("replay" in s.metrics for s in values.run.of(case)) and case.trace is not None]


def _ratio(value):
    return "" if value is None else f"{value:.4f}"


def _share(part, whole):
    return "" if part is None else f"{min(1, part / whole):.3f}"


def _mib(value):
    return "" if value is None else f"{value / MIB:,.1f}"
