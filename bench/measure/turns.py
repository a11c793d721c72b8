# SPDX-License-Identifier: GPL-2.0-or-later
"""4 KiB hits of two builds in one process, in turns of a fraction of a millisecond (`pcache-sweep turns`)."""
from . import pcache_sweep
from .machine import machine_key

NAME = "4 KiB {}"


class Turns:
    """What was measured so far of two build directories."""

    def __init__(self, first, second):
        self.builds = first, second
        self.rounds = 0
        self.pairs = {}  # {case: (first, second)}, each {round: metrics}
        self.sources = []  # what each build says of itself

    def add(self, rounds):
        """So many more rounds."""
        found = pcache_sweep.turns(*self.builds, "--rounds", rounds, "--seed", self.rounds)
        self.sources = [source or "unknown" for source in found["builds"]]
        for case, measured in found["cases"].items():
            first, second = self.pairs.setdefault(NAME.format(case), ({}, {}))
            for number, one in enumerate(measured, start=self.rounds):
                first[number] = {"iops": 1e9 / one["ns"]}
                # By the ratios of neighbours in time, which are quieter than the ratio of what each side took.
                second[number] = {"iops": 1e9 / one["ns"] * one["speed"]}
        self.rounds += rounds

    def facts(self):
        return {"first": self.sources[0], "second": self.sources[1],
                "machine": machine_key(pcache_sweep.facts(self.builds[1])["host"]["cpu"])}
