# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what `pcache-sweep run` has kept. The schema is in results/README.md."""
import copy
import csv
import dataclasses
import json
import math
import pathlib

from .errors import MeasureError
from .files import read_text
from .sizes import bytes_of

SCHEMAS = ("pcache-sweep-run/1", "pcache-sweep-run/2")


@dataclasses.dataclass(frozen=True)
class Case:
    index: int
    id: str
    values: dict

    def __hash__(self):
        return self.index

    @property
    def is_timed(self):
        """It runs for the run's time, and not until so much has been read and written."""
        return self.trace is None and self.values.get("volume", "0") == "0"

    @property
    def trace(self):
        """What it replays; None: its requests are of a pattern."""
        return self.values.get("trace")

    @property
    def is_ours(self):
        """It is of the build; other engines are the same with each."""
        return self.values["engine"] in ("pcache", "bound")


@dataclasses.dataclass
class Sample:
    """One measurement that succeeded."""
    case: Case
    build: str
    repeat: int
    metrics: dict
    raw: pathlib.Path  # without its suffix
    load_average: object = None  # when it began; None: a run from before that was kept

    @property
    def runtime_ms(self):
        return max(self.metrics.get(rw, {}).get("runtime_ms", 0) for rw in ("read", "write"))

    def series(self):
        """[(ms, read IOPS, write IOPS)], empty when it was not logged."""
        path = self.raw.with_suffix(".csv")
        if not path.exists():
            return []
        with open(path, encoding="ascii") as file:
            return [(int(row["ms"]), float(row["read_iops"]), float(row["write_iops"])) for row in csv.DictReader(file)]


class Run:
    """A folder of results."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.info = _load_json(self.folder / "run.json")
        if self.info.get("schema") not in SCHEMAS:
            raise MeasureError(f"{self.folder}/run.json: schema {self.info.get('schema')}, "
                               f"expected {' or '.join(SCHEMAS)}")
        try:
            self._read()
        except MeasureError:
            raise
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise MeasureError(f"{self.folder}: damaged: {type(error).__name__} {error}") from None

    def _read(self):
        self.name, self.axes = str(self.info["name"]), list(self.info["axes"])
        self.cases = [Case(i, str(c["id"]), {k: str(v) for k, v in c["values"].items()})
                      for i, c in enumerate(self.info["cases"])]
        if not all("engine" in case.values for case in self.cases):
            raise MeasureError(f"{self.folder}/run.json: damaged: a case has no engine")
        self.builds = [b["label"] for b in self.info["builds"]]
        self.hosts = [str(h["name"]) for h in self.info.get("hosts", [])]  # none: the machine itself
        self.samples, failed = [], {}
        path = self.folder / "results.jsonl"
        for number, line in enumerate(read_text(path).splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break  # a run that was cut
            try:
                self._add(json.loads(line), failed)
            except (KeyError, TypeError, IndexError, ValueError, AttributeError, RecursionError) as error:
                raise MeasureError(f"{path}:{number}: damaged: {type(error).__name__} {error}") from None
        self.failed = list(failed.values())

    def _add(self, result, failed):
        """A line; what is not as the schema says raises something."""
        number, repeat = result["number"], result["repeat"]
        if not (_is_whole(number) and _is_whole(repeat) and _is_whole(result["case"])):
            raise ValueError("number, repeat and case: expected whole numbers")
        case = self.cases[result["case"]]
        if case.is_ours and result["build"] not in self.builds:
            raise ValueError(f"build: {result['build']}")
        if not result["ok"]:
            failed[number] = (case, str(result["build"]), str(result["error"]))
            return
        failed.pop(number, None)  # tried again
        metrics = result["metrics"]
        for one in (metrics, *(metrics["hosts"][host] for host in self.hosts)):
            _need_figures(one, ("iops", "bytes_per_s"))
            for direction in ("read", "write"):
                latencies = one.get(direction, {}).get("lat_ns", {})
                _need_figures(latencies, latencies.keys())
        replay = metrics.get("replay", {})
        _need_figures(replay, replay.keys() - {"model"})
        backing = metrics.get("backing", {})
        _need_figures(backing, backing.keys())
        if "load_average" in result:
            _need_figures(result, ["load_average"])
        self.samples.append(Sample(case, str(result["build"]), repeat, metrics, self.folder / "raw" / f"{number:05}",
                                   result.get("load_average")))

    def sources(self):
        """{label: what it is of, as git describe says it}, of each build. Of the first schema nobody knows: kept was
        the source tree that pcache-sweep itself was built from, as it was then."""
        if self.info["schema"] == SCHEMAS[0]:
            tree = self.info.get("source", {}).get("describe") or "unknown"
            return {b["label"]: f"unknown (the source tree was at {tree})" for b in self.info["builds"]}
        return {b["label"]: f"{b['commit'][:12]}{'-dirty' if b['dirty'] else ''}" if "commit" in b else "unknown"
                for b in self.info["builds"]}

    def build_types(self):
        """{label: CMake's build type}."""
        first = self.info.get("source", {}).get("build_type", "unknown")
        return {b["label"]: b.get("build_type", first) for b in self.info["builds"]}

    def of(self, case, build=""):
        """Its samples, in the order of the rounds."""
        return sorted((s for s in self.samples if s.case is case and (s.build == build or not case.is_ours)),
                      key=lambda s: s.repeat)

    def by_build(self):
        """The same, but that each build's measurements are of cases of their own: nothing is of two builds."""
        if len(self.builds) < 2:
            return self
        view = copy.copy(self)
        view.axes, view.builds, view.cases, of = [*self.axes, "build"], [""], [], {}
        for case in self.cases:
            for build in self.builds if case.is_ours else [None]:
                own = {} if build is None else {"build": build}
                of[case.index, build] = Case(len(view.cases), case.id + "".join(f" build={b}" for b in own.values()),
                                             case.values | own)
                view.cases.append(of[case.index, build])
        def case_of(case, build):
            return of[case.index, build if case.is_ours else None]
        view.samples = [dataclasses.replace(s, case=case_of(s.case, s.build), build="") for s in self.samples]
        view.failed = [(case_of(case, build), "", error) for case, build, error in self.failed]
        return view

    def bound_of(self, case):
        """The case of the bound that does the same, with a fence after each store if both are there."""
        if case.values["engine"] != "pcache":
            return None
        alike = [other for other in self.cases if other.values["engine"] == "bound" and
                 all(case.values.get(k, v) == v for k, v in other.values.items() if k not in ("engine", "fence"))]
        return min(alike, key=lambda other: other.values["fence"] != "each", default=None)


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _need_figures(of, names):
    for name in names:
        if isinstance(of[name], bool) or not (math.isfinite(of[name]) and of[name] >= 0):
            raise ValueError(f"{name}: {of[name]}")
    if "iops" in names and of["iops"] == 0:
        raise ValueError("iops: 0")


def _load_json(path):
    try:
        info = json.loads(read_text(path))
    except FileNotFoundError:
        raise MeasureError(f"{path}: is not there; expected a folder that pcache-sweep run has made") from None
    except NotADirectoryError:
        raise MeasureError(f"{path.parent}: is no folder; expected one that pcache-sweep run has made") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MeasureError(f"{path}: {error}") from None
    if not isinstance(info, dict):
        raise MeasureError(f"{path}: expected what pcache-sweep run has written, found a {type(info).__name__}")
    return info


def number_of(axis, value):
    """A value as a number to sort and to draw by; None: it is a word."""
    try:
        return bytes_of(value) if axis in ("bs", "cache_size") else float(value)
    except (ValueError, KeyError):
        return None
