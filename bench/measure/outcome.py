# SPDX-License-Identifier: GPL-2.0-or-later
"""What gate and compare have found, as data: the lines, the JSON, the JUnit and the Markdown are all of this."""
import dataclasses
import enum
import time


class Outcome(enum.Enum):
    """Of one check."""
    PASSED = "passed"
    FAILED = "failed"
    UNJUDGED = "not judged"


class Exit(enum.IntEnum):
    """The exit status of gate and compare, and the verdict in their files."""
    OK = 0
    WORSE = 1
    ERROR = 2
    CANNOT_TELL = 3


@dataclasses.dataclass(frozen=True)
class Check:
    group: str  # "counts", "ratios", or a metric
    name: str  # of the request or the case
    outcome: Outcome
    verdict: str  # one or two words: "same", "worse", "cannot tell"
    text: str  # the figures, for people
    figures: dict = dataclasses.field(default_factory=dict)  # the same, for programs


@dataclasses.dataclass
class Findings:
    command: str  # "gate" or "compare"
    facts: dict = dataclasses.field(default_factory=dict)  # what was judged, by what and where: {name: text}
    checks: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)  # what a reader must know to believe the verdict
    status: Exit = Exit.ERROR
    headline: str = "it has not come to its end"
    is_strict: bool = False  # what was not judged is a failure
    started: str = dataclasses.field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def of(self, outcome):
        return [check for check in self.checks if check.outcome is outcome]

    def fails(self, check):
        return check.outcome is Outcome.FAILED or self.is_strict and check.outcome is Outcome.UNJUDGED


def figures_of(estimate):
    """An Estimate, for Check.figures."""
    return {"median": estimate.median, "low": estimate.low, "high": estimate.high, "n": estimate.n}
