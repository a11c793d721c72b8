# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate's baseline as a file. What is in it is checked when it is read: nothing behind has to doubt it."""
import json
import math

from .errors import MeasureError
from .files import read_text, write_whole

SCHEMA = "pcache-gate/1"
COUNTED = ("instructions", "flushes", "fences", "allocations", "system_calls")


def load(path):
    try:
        baseline = json.loads(read_text(path))
    except FileNotFoundError:
        raise MeasureError(f"{path}: is not there; --accept REASON makes it") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8
        raise MeasureError(f"{path}: {error}; expected what --accept has written") from None
    if not isinstance(baseline, dict) or baseline.get("schema") != SCHEMA:
        found = baseline.get("schema") if isinstance(baseline, dict) else type(baseline).__name__
        raise MeasureError(f"{path}: schema {found}, expected {SCHEMA}")
    _check(path, baseline)
    return baseline


def store(baseline, path):
    """Whole or not at all."""
    write_whole(path, json.dumps(baseline, indent=1) + "\n")


def _is_number(value, least=0.0, most=math.inf):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and least <= value <= most


def _check(path, baseline):
    def need(is_right, where, expected, found):
        if not is_right:
            found = json.dumps(found)[:40]
            raise MeasureError(f"{path}: {where}: expected {expected}, found {found}; --accept makes a new one")
    def table(of, where):
        need(isinstance(of, dict), where, "a table", of)
        return of.items()
    threshold, rounds = baseline.get("threshold"), baseline.get("rounds")
    need(_is_number(threshold, 0.001, 0.999), "threshold", "a number between 0 and 1", threshold)
    need(isinstance(rounds, int) and _is_number(rounds, 1, 1000), "rounds", "a number from 1 to 1000", rounds)
    need(isinstance(baseline.get("compiler", ""), str), "compiler", "a name", baseline.get("compiler"))
    for name, counts in table(baseline.get("counts"), "counts"):
        values = dict(table(counts, f"counts: {name}"))
        for what in COUNTED:
            # A rounding may have left a little less than nothing.
            need(_is_number(values.get(what), -1), f"counts: {name}: {what}", "a number", values.get(what))
    for cpu, cases in table(baseline.get("ratios"), "ratios"):
        for case, ratio in table(cases, f"ratios: {cpu}"):
            values = dict(table(ratio, f"ratios: {cpu}: {case}"))
            for what in ("median", "low", "high"):
                need(_is_number(values.get(what)), f"ratios: {cpu}: {case}: {what}", "a number", values.get(what))
