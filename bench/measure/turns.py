# SPDX-License-Identifier: GPL-2.0-or-later
"""4 KiB hits of two builds in one process, in turns of a fraction of a millisecond (`pcache-sweep turns`)."""
from . import pcache_sweep
from .machine import machine_key

NAME = "4 KiB {}"


class Turns:
    """What was measured so far of two build directories."""

    def __init__(self, first, second):
        self.builds = first, second
        self.rounds = self.processes = 0
        self.pairs = {}  # {case: (first, second)}, each {round: metrics}
        self.sources = []  # what each build says of itself

    def add(self, rounds):
        """So many more rounds, 2 or more: by two processes, of which one has the second build first. Where in memory a
        library comes to lie is a matter of luck, too."""
        self._add(rounds // 2, False)
        self._add(rounds - rounds // 2, True)

    def _add(self, rounds, swapped):
        order = slice(None, None, -1 if swapped else 1)
        found = pcache_sweep.turns(*self.builds[order], "--rounds", rounds, "--seed", self.processes)
        self.sources = [source or "unknown" for source in found["builds"]][order]
        for case, measured in found["cases"].items():
            sides = self.pairs.setdefault(NAME.format(case), ({}, {}))[order]
            for number, one in enumerate(measured, start=self.rounds):
                # By the ratios of neighbours in time, which are quieter than the ratio of what each side took.
                for side, speed in zip(sides, (1, one["speed"])):
                    side[number] = {"iops": 1e9 / one["ns"] * speed}
        self.rounds += rounds
        self.processes += 1

    def facts(self):
        return {"first": self.sources[0], "second": self.sources[1],
                "machine": machine_key(pcache_sweep.facts(self.builds[1])["host"]["cpu"])}
