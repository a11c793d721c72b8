# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a run over several hosts. Each function returns what Page.table() gives, or None: it was of this
machine alone."""
import dataclasses

from ..estimates import estimate
from ..sizes import MIB
from .run_tables import LATENCIES, microseconds, spread_text
from .run_values import iops, latency

SUM = "sum"


def each_host(values, page):
    """Of each case a row for each host, and their sum."""
    if not values.run.hosts:
        return None
    with_latency = any(values.has_latency(case) for case in values.run.cases)
    rows = []
    for case in values.run.cases:
        samples = values.run.of(case)
        if not samples:
            continue
        timed = values.has_latency(case)
        for host in [*values.run.hosts, SUM]:
            own = samples if host == SUM else [_of_host(sample, host) for sample in samples]
            speed = estimate([iops(s) for s in own])
            row = [case.id, host, len(own), f"{speed.median:,.0f}", spread_text(speed),
                   f"{estimate([s.metrics['bytes_per_s'] for s in own]).median / MIB:,.1f}"]
            if with_latency:
                row += [microseconds(estimate([latency(s, name) for s in own]).median) if timed else ""
                        for name in LATENCIES.values()]
            rows.append(row)
    head = ["case", "host", "n", "requests/s", "interval", "MiB/s", *(LATENCIES if with_latency else [])]
    return page.table(f"{values.run.name}-hosts", head, rows)


def host_facts(values, page):
    """What their fio servers said at the start."""
    facts = values.run.info.get("hosts")
    if not facts:
        return None
    rows = [[fact["name"], fact.get("node", ""), fact.get("fio", ""), fact.get("arch", ""), _clock(fact)]
            for fact in facts]
    return page.table(f"{values.run.name}-host-facts", ["host", "calls itself", "fio", "architecture",
                                                        "its clock is ahead by"], rows, "facts")


def _of_host(sample, host):
    return dataclasses.replace(sample, metrics=sample.metrics["hosts"][host])


def _clock(fact):
    if "clock_ahead_ms" not in fact:
        return "unknown"
    low, high = fact["clock_ahead_ms"]
    return f"{low:,} to {high:,} ms"
