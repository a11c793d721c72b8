# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of a run, in the order of the page. Each function returns what Page.table() gives."""
from ..estimates import estimate
from ..sizes import MIB
from . import published
from .run_values import iops, latency

LATENCIES = {"mean µs": "mean", "p50 µs": "p50", "p99 µs": "p99", "p99.9 µs": "p99.9", "max µs": "max"}
METHODS = ("clflushopt", "flushcache")


def beside_published(values, page):
    """[(rw, table)]: the published comparison of persist methods beside this one, where this one has its sizes."""
    run = values.run
    if "build" in run.axes:
        return []  # it is of one
    here = _persist_methods(values)
    if not all(("randwrite", method, "4k") in here for method in METHODS):
        return []
    tables = []
    for rw in ("randwrite", "write"):
        rows = []
        for i, size in enumerate(published.SIZES):
            found = [here.get((rw, method, size)) for method in METHODS]
            row = [size, *(_pair(found) if all(found) else ("", ""))]
            for memory in ("memmap DRAM", "Optane 100"):
                row += _pair([published.TABLE[memory, rw][method][i] for method in METHODS])
            rows.append(row)
        head = ["size", "here", "ratio", "memmap DRAM", "ratio", "Optane", "ratio"]
        tables.append((rw, page.table(f"{run.name}-published-{rw}", head, rows)))
    return tables


def _persist_methods(values):
    """{(rw, persist method, size): median MiB/s}, of one request at a time."""
    found = {}
    for case in values.run.cases:
        v = case.values
        if case.trace is not None or v["engine"] != "pcache":
            continue
        if v["bs"] in published.SIZES and v["iodepth"] == v["numjobs"] == "1":
            value = values.estimate(lambda s: s.metrics["bytes_per_s"] / MIB, case)
            if value:
                found[v["rw"], v["persist"], v["bs"]] = value.median
    return found


def all_cases(values, page, doubts):
    run = values.run
    with_latency = any(values.has_latency(case) for case in run.cases)
    with_backing = any(_is_written(sample) for sample in run.samples)
    head = ["case", "n", "requests/s", "interval", "MiB/s", "ratio to bound",
            *(["written back, of what was written"] if with_backing else []), *(LATENCIES if with_latency else []),
            "doubtful"]
    rows = []
    for case in run.cases:
        samples = run.of(case)
        if not samples:
            continue
        speed = estimate([iops(s) for s in samples])
        row = [case.id, len(samples), f"{speed.median:,.0f}", spread_text(speed),
               f"{estimate([s.metrics['bytes_per_s'] for s in samples]).median / MIB:,.1f}",
               interval_text(values.ratio(case))]
        if with_backing:
            row.append(f"{estimate(list(map(_written_back, samples))).median:.1%}" if all(map(_is_written, samples))
                       else "")
        if with_latency:
            row += [microseconds(estimate([latency(s, name) for s in samples]).median)
                    if values.has_latency(case) else "" for name in LATENCIES.values()]
        rows.append([*row, doubts.of_case(case)])
    return page.table(f"{run.name}-cases", head, rows, marked=[n for n, row in enumerate(rows) if row[-1]])


def _is_written(sample):
    return sample.metrics.get("backing", {}).get("requested_bytes", 0) > 0


def _written_back(sample):
    backing = sample.metrics["backing"]
    return backing["written_bytes"] / backing["requested_bytes"]


def machine(values, page):
    run = values.run
    host = run.info["host"]
    cpu = host["cpu"]
    backing = host.get("backing") or {}
    rows = [("CPU", f"{cpu['model']}, {cpu['online']} online; {' '.join(cpu['flags'])}"),
            ("frequency governor", cpu.get("governor") or "unknown to this machine"),
            ("last-level cache", cpu.get("l3")),
            ("memory", host["memory"]), ("pmem", host["pmem"]),
            ("huge pages of shared memory", host["transparent_hugepages"]),
            ("backing device", " ".join(str(v) for v in backing.values() if v)),
            ("kernel", host["kernel"]), ("fio", host["fio"]), ("load average at the start", host["load_average"]),
            ("sources", joined(run.sources())), ("build type", joined(run.build_types()))]
    return page.table(f"{run.name}-machine", ["what", "found"], rows, "facts")


def joined(by_build):
    """Of one build what it is; of several, of which."""
    if len(set(by_build.values())) == 1:
        return next(iter(by_build.values()))
    return ", ".join(f"{label}: {what}" for label, what in by_build.items())


def spread_text(value):
    """Of one measurement nothing is known of where its median lies."""
    return f"± {100 * value.half_width:.1f} %" if value and value.n > 1 else ""


def interval_text(value):
    if not value:
        return ""
    return f"{value.median:.3f}" + (f" ({value.low:.3f} to {value.high:.3f})" if value.n > 1 else "")


def microseconds(ns):
    us = ns / 1000
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def _pair(values):
    return f"{values[0]:,.0f} / {values[1]:,.0f}", f"{values[0] / values[1]:.2f}"
