# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures as they are printed and as they are kept: schema pcache-limits/1, in results/README.md."""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "analysis"))

from results import Wrong, read_text  # noqa: E402
from stamp import facts_in, other_source_tree, text_of  # noqa: E402

SCHEMA = "pcache-limits/1"
LIBRARIES = ("libpcache.so.1", "libpcache_fio.so", "libpcache_raw.so")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One value for each round, or one in all."""
    group: str
    name: str
    unit: str  # "ratio", "bytes", "s", "ns", "MiB"
    values: list

    def facts(self):
        return {"group": self.group, "name": self.name, "unit": self.unit, "n": len(self.values),
                "median": statistics.median(self.values), "low": min(self.values), "high": max(self.values),
                "values": self.values}


def _line(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").split("\n")[0]
    except OSError:
        return ""


def _value(path, key):
    """Of the first line that begins with `key`."""
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""


def _disk(path):
    """Of the disk below a file; None where the kernel does not say."""
    device = os.stat(path).st_dev
    block = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not block.exists():
        return None
    return {"kind": "file", "disk": block.resolve().name, "model": _line(block / "device/model"),
            "rotational": _line(block / "queue/rotational"), "scheduler": _line(block / "queue/scheduler")}


def host_facts(folder):
    """Those that pcache-sweep keeps (bench/sweep/host.cc), by the same names; the backing file is in `folder`."""
    flags = set(_value("/proc/cpuinfo", "flags").split())
    looked_at = ("clflushopt", "clwb", "movdir64b", "avx2", "avx512f", "hypervisor")
    fio = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    cpu0 = pathlib.Path("/sys/devices/system/cpu/cpu0")
    return {"cpu": {"model": _value("/proc/cpuinfo", "model name"), "online": os.sysconf("SC_NPROCESSORS_ONLN"),
                    "flags": [flag for flag in looked_at if flag in flags],
                    "governor": _line(cpu0 / "cpufreq/scaling_governor"), "l3": _line(cpu0 / "cache/index3/size")},
            "memory": _value("/proc/meminfo", "MemTotal"),
            "transparent_hugepages": _line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            "kernel": platform.release(), "fio": fio, "pmem": "emulated: a file in memory", "backing": _disk(folder),
            "load_average": _line("/proc/loadavg")}


def build_facts(build):
    """What its libraries say they are of; Wrong: they are of several. Nothing where they say nothing."""
    found = [facts_in(build / "lib" / name) for name in LIBRARIES]
    if any(one != found[0] for one in found):
        raise Wrong(f"{build}: its libraries are of several commits; build it whole")
    facts = found[0] or {}
    other = other_source_tree(build, text_of(facts["commit"], facts["dirty"])) if facts else None
    return facts | ({"source_tree": other} if other else {})


class Record:
    """Takes figures and prints them; keeps them all."""

    def __init__(self, build, rounds, folder):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.head = {"schema": SCHEMA, "started": now, "rounds": rounds, "build": build_facts(build),
                     "host": host_facts(folder)}
        self.figures = []
        self.group = None

    def begin(self, group):
        self.group = group
        print(group, flush=True)

    def keep(self, name, values, unit="ratio"):
        self.figures.append(Figure(self.group, name, unit, list(values)))

    def show(self, name, values, note="", unit="ratio"):
        self.keep(name, values, unit)
        print(f"  {name}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}), n {len(values)}"
              f"{note}", flush=True)

    def store(self, path):
        """All of it or nothing."""
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(self.head | {"figures": [f.facts() for f in self.figures]}, indent=1) + "\n",
                       encoding="utf-8")
        new.rename(path)


def load(path):
    """What store() has written; Wrong: it is something else."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise Wrong(f"{path}: {error}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise Wrong(f"{path}: schema {schema}, expected {SCHEMA}")
    return content
