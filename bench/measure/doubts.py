# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes a reader doubt a run's figures: measurements that waited for space, which are of the disk, a load above
the CPUs, intervals that are wide. Said on the page, on standard error and in verdicts; `run` says the first two, too.
"""
import dataclasses
import sys

from .estimates import estimate

WIDE = 0.1  # of the median: half of an interval
MOST_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Doubts:
    writing: list  # samples of which it is known whether they waited for space
    waited: list  # of them, samples of which a request did
    known_load: list  # samples
    overloaded: list  # of them, begun with a load above the CPUs
    wide: dict  # {case: Estimate of its requests per second}
    cpus: int

    @classmethod
    def of(cls, run, wide=WIDE):
        """wide: of an interval that is one; None: that is judged elsewhere."""
        writing = [s for s in run.samples if waits_of(s) is not None]
        cpus = run.info.get("host", {}).get("cpu", {}).get("online") or 0
        known = [s for s in run.samples if s.load_average is not None and cpus]
        speeds = {} if wide is None else {
            case: estimate([s.metrics["iops"] for s in run.samples if s.case is case]) for case in run.cases}
        return cls(writing, [s for s in writing if waits_of(s)], known, [s for s in known if s.load_average > cpus],
                   {case: speed for case, speed in speeds.items() if speed and speed.half_width > wide}, cpus)

    @property
    def is_of_the_disk(self):
        """More than a tenth of the measurements."""
        return 10 * len(self.waited) > len(self.writing)

    @property
    def is_overloaded(self):
        """More than a tenth of the measurements."""
        return 10 * len(self.overloaded) > len(self.known_load)

    def waited_note(self):
        """Short: what a verdict says of it."""
        return (f"{len(self.waited)} of {len(self.writing)} measurements that write waited for writeback: "
                f"{'this compares the disk' if self.is_of_the_disk else 'these are of the disk'}")

    def notes(self):
        """A sentence each; the worst first."""
        if self.waited:
            most = max(map(waited_part, self.waited))
            cases = _named([s.case for s in self.waited])
            yield (f"{self.waited_note()} "
                   f"(up to {most:.1%} of the writes, in {cases}); a `volume` ends a measurement before that")
        if self.overloaded:
            most = max(s.load_average for s in self.overloaded)
            yield (f"{len(self.overloaded)} of {len(self.known_load)} measurements began with a load above the "
                   f"{self.cpus} CPUs, up to {most:.1f}: they shared them with others")
        if self.wide:
            widest = max(self.wide, key=lambda case: self.wide[case].half_width)
            yield (f"the interval is wide in {len(self.wide)} cases, up to ± {self.wide[widest].half_width:.0%} in "
                   f"{widest.id}: more rounds, or a quieter machine")

    def of_case(self, case):
        """The same of one case, short; "": nothing."""
        found = []
        if waited := [s for s in self.waited if s.case is case]:
            found.append(f"{len(waited)} of {sum(s.case is case for s in self.writing)} waited for writeback")
        if loaded := [s for s in self.overloaded if s.case is case]:
            found.append(f"load above the CPUs in {len(loaded)}")
        if case in self.wide:
            found.append(f"wide: ± {self.wide[case].half_width:.0%}")
        return "; ".join(found)


def waits_of(sample):
    """Requests that waited for space; None: it is not known, or no question: of reads, of the disk, of a trace."""
    return sample.metrics.get("backing", {}).get("waited_for_space")


def waited_part(sample):
    return waits_of(sample) / max(1, sample.metrics["backing"].get("writes", 0))


def say(program, notes):
    """On standard error, in red at a terminal."""
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    for note in notes:
        print(f"{program}: {red}{note}{plain}", file=sys.stderr)


def _named(cases):
    names = list(dict.fromkeys(case.id for case in cases))
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
