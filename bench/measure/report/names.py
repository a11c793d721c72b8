# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters and their values in words. What all cases share is named once, and a case by what sets it apart."""
import pathlib

from ..run_folder import number_of
from ..sizes import size_text

PATTERNS = {"read": "sequential read", "write": "sequential write", "randread": "random read",
            "randwrite": "random write", "rw": "sequential mix", "randrw": "random mix"}
PARAMETERS = {"rw": "pattern", "bs": "request size", "iodepth": "requests in flight", "numjobs": "threads",
              "persist": "persist method", "cache_size": "cache", "working_set": "working set / cache",
              "cache_share": "cache / trace", "rwmixread": "reads, %", "fsync": "writes per flush",
              "block_bytes": "block", "backing_order": "order of writeback"}
SIZES = ("bs", "cache_size", "block_bytes")
# What one expects where nothing is said; a label that leaves it out is no riddle.
USUAL = {"iodepth": "1", "numjobs": "1", "fsync": "0", "data_crc": "0", "ranges": "shared", "distribution": "random",
         "rwmixread": "50", "fill": "dirty", "gc_percent": "70", "backing_order": "strict", "policy": "adaptive",
         "requests": "0", "flush_delay_ms": "10", "fence": "each"}
# Every reader asks for these, so they are named even where they are as usual.
ASKED_FOR = ("rw", "bs", "numjobs", "iodepth", "persist", "cache_size", "working_set")
NO_QUESTION = ("volume", "latency")  # how it is measured, and not what
FIRST = ("trace", "engine", "rw", "bs", "numjobs", "iodepth")  # of a label; the others are in the file's order
MULTIPLE_OF = {"working_set": " of the cache", "cache_share": " of the trace"}
OF_A_TRACE = ("block_bytes", "requests")
MOST_VALUES = 12


def value_text(parameter, value):
    """As a list of values has it: 4096 -> 4 KiB."""
    if parameter == "rw":
        return PATTERNS.get(value, value)
    if parameter == "trace":
        return pathlib.PurePath(value).name.split(".")[0]
    if parameter in SIZES and (number := number_of("bs", value)) is not None:
        return size_text(number)
    return value


def words(parameter, value):
    """As it stands by itself: 2 -> 2 threads."""
    text = value_text(parameter, value)
    if parameter in ("engine", "rw", "bs", "persist", "trace", "policy"):
        return text if text != "auto" else "persist auto"
    if parameter == "numjobs":
        return f"{text} thread{'' if text == '1' else 's'}"
    if parameter == "iodepth":
        return f"{text} in flight"
    if parameter == "fsync":
        return "no fsync" if text == "0" else "fsync after each write" if text == "1" else f"fsync each {text}"
    if parameter == "data_crc":
        return "data_crc" if text == "1" else "no data_crc"
    if parameter == "fence":
        return {"each": "a fence each", "none": "no fence"}.get(text, text)
    if parameter == "ranges":
        return f"{text} range{'s' if text == 'own' else ''}"
    if parameter == "cache_share":
        return f"cache {text}"
    if parameter == "working_set":
        return f"working set {text}"
    if parameter == "backing_order":
        return f"{text} order"
    if parameter == "rwmixread":
        return f"{text} % reads"
    if parameter == "block_bytes":
        return f"blocks of {text}"
    if parameter == "cache_size":
        return f"cache {text}"
    if parameter == "requests":
        return "all requests" if text == "0" else f"the first {text} requests"
    return f"{parameter.replace('_', ' ')} {text}"


def values_of(cases, parameter):
    """In the order of the file, which is that of the cases."""
    return list(dict.fromkeys(case.values[parameter] for case in cases if parameter in case.values))


def varied(run, cases):
    """The parameters, in the order of the file, in which these cases differ: a case that lacks one does not."""
    return [axis for axis in run.axes if len(values_of(cases, axis)) > 1]


def labels(run, cases, without=()):
    """{case: what sets it apart from the others}."""
    axes = sorted((axis for axis in varied(run, cases) if axis not in without),
                  key=lambda axis: FIRST.index(axis) if axis in FIRST else len(FIRST))
    said = [axis for axis in axes if axis not in NO_QUESTION]
    for chosen in (_by_value(cases, said), {axis: () for axis in said}, {axis: () for axis in axes}):
        found = {case: _label(case, chosen) for case in cases}
        if len(set(found.values())) == len(found) and all(found.values()):
            return found
    return {case: case.id or run.name for case in cases}


def _by_value(cases, axes):
    """{axis: the values that need no word}: what is usual, and so in most of the cases. What follows from another
    parameter, as the size of a trace's blocks does, needs none either."""
    chosen = {}
    for axis in axes:
        own = [case.values[axis] for case in cases if axis in case.values]
        usual = USUAL.get(axis)
        chosen[axis] = (usual,) if 2 * own.count(usual) > len(own) else ()
    for axis in reversed(axes):
        rest = {a: silent for a, silent in chosen.items() if a != axis}
        if len({_label(case, rest) for case in cases}) == len({_label(case, chosen) for case in cases}):
            if axis not in ("engine", "rw"):
                chosen = rest
    return chosen


def _label(case, chosen):
    return ", ".join(words(axis, case.values[axis]) for axis, silent in chosen.items()
                     if axis in case.values and case.values[axis] not in silent)


def asked(run):
    """(what varies: [(parameter, its values)], what is constant)."""
    sources = run.sources()
    what_varies = []
    for axis in varied(run, run.cases):
        if axis in NO_QUESTION or axis in OF_A_TRACE and "trace" in run.axes:
            continue
        values = [f"{value} ({sources[value]})" if axis == "build" else value_text(axis, value)
                  for value in values_of(run.cases, axis)]
        what_varies.append((PARAMETERS.get(axis, axis), ", ".join(_short(values))))
    return what_varies, ", ".join(constants(run))


def constants(run):
    """What every case has that has it at all."""
    found = {}
    for parameter in dict.fromkeys(name for case in run.cases for name in case.values):
        values = values_of(run.cases, parameter)
        if len(values) == 1 and parameter not in (*NO_QUESTION, "engine") and values[0] != "none":
            found[parameter] = values[0]
    named = [name for name in ASKED_FOR if name in found]
    named += [name for name in found if name not in named and found[name] != USUAL.get(name)]
    engines = values_of(run.cases, "engine")
    hosts = [f"the hosts {', '.join(run.hosts)} at once"] if run.hosts else []
    return [*hosts, *(engines if len(engines) == 1 else []),
            *(words(name, found[name]) + MULTIPLE_OF.get(name, "") for name in named)]


def _short(values):
    return values if len(values) <= MOST_VALUES else [*values[:MOST_VALUES - 2], "…", values[-1]]
