# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of many commits in one file, a line of JSON for each measured build (results/README.md), in the order in
which they were added. Lines come from folders of `run`, and from what gate has written with --json."""
import dataclasses
import json
import math
import os

from .doubts import Doubts
from .errors import MeasureError
from .estimates import estimate, paired_ratios
from .files import read_text
from .judge import METRICS
from .machine import machine_key
from .outcome_files import SCHEMA as VERDICT_SCHEMA
from .run_folder import Run

SCHEMA = "pcache-history/1"
RATIO = "ratio to the bound"
COUNTED = ("instructions", "flushes", "fences", "allocations", "system_calls")
# By metric, whether more is better.
BETTER_IS_MORE = {"requests/s": True, RATIO: True, "p50": False, "p99": False, **dict.fromkeys(COUNTED, False)}
FIGURE = ("median", "low", "high", "n")


@dataclasses.dataclass(frozen=True)
class Entry:
    commit: str
    started: str  # UTC, ISO 8601
    machine: str  # of counts the compiler: they depend on it alone
    name: str  # of the sweep
    doubt: str  # why its figures are no evidence; "": they are
    figures: dict  # {metric: {case: {median, low, high, n}}}

    @property
    def key(self):
        return self.commit, self.started, self.machine, self.name

    def as_line(self):
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, allow_nan=False) + "\n"


def load(path):
    """[Entry]; of a file that is not there, none."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise MeasureError(f"{path}: {error}; expected what history --add has written") from None
    return [_entry(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _entry(line, where):
    try:
        content = json.loads(line)
        if content["schema"] != SCHEMA:
            raise MeasureError(f"{where}: schema {content['schema']}, expected {SCHEMA}")
        texts = {name: content[name] for name in ("commit", "started", "machine", "name", "doubt")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("expected text")
        for metric, cases in content["figures"].items():
            for case, figure in cases.items():
                if not all(isinstance(figure[key], (int, float)) and math.isfinite(figure[key]) for key in FIGURE):
                    raise ValueError(f"{metric} of {case}: expected numbers")
        return Entry(**texts, figures=content["figures"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MeasureError(f"{where}: damaged: {type(error).__name__} {error}; expected what history --add has "
                           "written") from None


def append(path, entries):
    """Each line whole, in one write for all; also behind a last line without its end."""
    lines = "".join(entry.as_line() for entry in entries).encode()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(fd).st_size
        if lines and size and os.pread(fd, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(fd, lines) != len(lines):
            raise MeasureError(f"{path}: was not written whole; the file system is full")
    finally:
        os.close(fd)


def entries_of(path):
    """Of a run's folder, one for each build; of a verdict of gate, one for its counts and one for its ratios."""
    if path.is_dir():
        return list(_of_run(Run(path)))
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise MeasureError(f"{path}: is not there; expected a folder of pcache-sweep run, or what gate --json has "
                           "written") from None
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path}: {error}; expected what gate --json has written") from None
    if not isinstance(content, dict) or content.get("schema") != VERDICT_SCHEMA or content.get("command") != "gate":
        raise MeasureError(f"{path}: expected what gate --json has written, schema {VERDICT_SCHEMA}")
    try:
        return list(_of_verdict(content, path))
    except (KeyError, TypeError, AttributeError) as error:
        raise MeasureError(f"{path}: damaged: {type(error).__name__} {error}") from None


def _of_run(run):
    sources = run.sources()
    machine = machine_key(run.info.get("host", {}).get("cpu", {}))
    for build, commit in sources.items():
        figures = {}
        for case in run.cases:
            if case.trace is not None or not run.of(case, build):
                continue
            by_round = {s.repeat: s.metrics for s in run.of(case, build)}
            for metric in METRICS:
                values = [metric.of(m) for m in by_round.values()]
                if None not in values:
                    figures.setdefault(metric.name, {})[case.id] = _figure(estimate(values))
            bound = run.bound_of(case)
            if bound:
                below = {s.repeat: s.metrics["iops"] for s in run.of(bound, build)}
                if ratio := estimate(paired_ratios({r: m["iops"] for r, m in by_round.items()}, below)):
                    figures.setdefault(RATIO, {})[case.id] = _figure(ratio)
        if figures:
            yield Entry(commit, str(run.info.get("started", "")), machine, run.name, _doubt_of(run), figures)


def _doubt_of(run):
    doubts = Doubts.of(run, None)
    if doubts.is_of_the_disk:
        return doubts.waited_note()
    if 2 * len(doubts.overloaded) > len(doubts.known_load):
        return f"load above the {doubts.cpus} CPUs"
    return ""


def _of_verdict(content, path):
    facts = content["facts"]
    if "commit" not in facts:
        raise MeasureError(f"{path}: is of no build: {content.get('headline')}")
    counts, ratios = {}, {}
    for check in content["checks"]:
        now = check["figures"].get("now")
        if not now:
            continue
        if check["group"] == "counts":
            for what in COUNTED:
                counts.setdefault(what, {})[check["name"]] = {"median": now[what], "low": now[what],
                                                              "high": now[what], "n": 1}
        elif check["group"] == "ratios":
            ratios[check["name"]] = {key: now[key] for key in FIGURE}
    doubt = "; ".join(check["text"] for check in content["checks"] if check["verdict"] == "of the disk")
    if counts:
        yield Entry(facts["commit"], content["started"], facts["compiler"], "gate", "", counts)
    if ratios:
        yield Entry(facts["commit"], content["started"], facts["machine"], "gate", doubt, {RATIO: ratios})


def _figure(value):
    return {"median": value.median, "low": value.low, "high": value.high, "n": value.n}
