# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures as they are printed and as they are kept: schema pcache-limits/1, in results/README.md."""

import dataclasses
import datetime
import json
import statistics

from .. import pcache_sweep
from ..build_stamp import library_facts
from ..errors import MeasureError
from ..files import read_text, write_whole

SCHEMA = "pcache-limits/1"


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


class Record:
    """Takes figures and prints them; keeps them all."""

    def __init__(self):
        self.head = None  # what was measured, where it is to be kept
        self.figures = []
        self.group = None

    def look_at(self, build, rounds, folder):
        """For store(); before anything is measured. Needs pcache-sweep."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = pcache_sweep.facts(build, folder)
        self.head = {"schema": SCHEMA, "started": now, "rounds": rounds, "build": library_facts(build, facts),
                     "host": facts["host"]}

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
        write_whole(path, json.dumps(self.head | {"figures": [f.facts() for f in self.figures]}, indent=1) + "\n")


def load(path):
    """What store() has written; MeasureError: it is something else."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise MeasureError(f"{path}: {error}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise MeasureError(f"{path}: schema {schema}, expected {SCHEMA}")
    return content
