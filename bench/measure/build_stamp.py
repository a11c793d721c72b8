# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sources a build is of: what its files say of themselves (core/stamp), as pcache-sweep reads it."""
from .errors import MeasureError

LIBRARIES = ("lib/libpcache.so", "lib/libpcache_fio.so", "lib/libpcache_raw.so")
COUNTED = ("bin/pcache-microbench", "lib/libpcache.so")  # the program whose requests are counted, and the library


def text_of(stamp):
    """A commit as it is shown: "0123456789ab-dirty"."""
    return stamp["commit"][:12] + ("-dirty" if stamp["dirty"] else "")


def other_source_tree(facts, shown):
    """What the build's source tree is at, where that is something else than what the build is of; else None."""
    return facts["source_tree"] if facts["source_tree"] not in ("", shown) else None


def counted_stamp(build, facts):
    """Of the program whose requests are counted and of the library that is measured: of one build, or MeasureError."""
    program, library = (text_of(facts["stamps"][name]) if name in facts["stamps"] else None for name in COUNTED)
    if program and library and program != library:
        raise MeasureError(f"{build}: pcache-microbench is of {program}, libpcache.so of {library}; build it whole")
    return program or "unknown"


def library_facts(build, facts):
    """What the libraries say they are of, by the names of run.json; MeasureError: of several commits. Nothing where
    they say nothing."""
    found = [facts["stamps"].get(name) for name in LIBRARIES]
    if any(one != found[0] for one in found):
        raise MeasureError(f"{build}: its libraries are of several commits; build it whole")
    if not found[0]:
        return {}
    other = other_source_tree(facts, text_of(found[0]))
    return found[0] | ({"source_tree": other} if other else {})
