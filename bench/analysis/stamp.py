# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sources a build is of: what its files say of themselves (core/stamp)."""
import os
import pathlib
import re
import subprocess

from results import Wrong

_STAMP = re.compile(rb"pcache build: commit=([0-9a-z]+) dirty=([01]) ")
_REST = re.compile(rb"version=(\S*) build_type=(\S*)\n")


def text_of(commit, dirty):
    return commit[:12] + ("-dirty" if dirty else "")


def stamp_in(path):
    """As text_of() gives it; None: it is of before there were stamps, or there is no such file."""
    found = _STAMP.search(path.read_bytes()) if path.exists() else None
    return text_of(found[1].decode(), found[2] == b"1") if found else None


def facts_in(path):
    """All that the stamp says, by the names of run.json; None as of stamp_in()."""
    content = path.read_bytes() if path.exists() else b""
    found = _STAMP.search(content)
    if not found:
        return None
    rest = _REST.match(content, found.end())
    version, build_type = (part.decode() for part in rest.groups()) if rest else ("", "")
    return {"commit": found[1].decode(), "dirty": found[2] == b"1", "version": version, "build_type": build_type}


def stamp_of(build):
    """Of the program whose requests are counted, and of the library that is measured: of one build, or Wrong."""
    program, library = (stamp_in(build / name) for name in ("bin/pcache-microbench", "lib/libpcache.so.1"))
    if program and library and program != library:
        raise Wrong(f"{build}: pcache-microbench is of {program}, libpcache.so.1 of {library}; build it whole")
    return program or "unknown"


def other_source_tree(build, stamp):
    """What the build's source tree is at, where that is something else than what it is of; else None."""
    cache = build / "CMakeCache.txt"
    source = re.search("^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$", cache.read_text(encoding="utf-8", errors="replace"),
                       re.MULTILINE) if cache.exists() else None
    if not source or not pathlib.Path(source[1]).exists():
        return None
    done = subprocess.run(["git", "-C", source[1], "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "GIT_CEILING_DIRECTORIES": str(pathlib.Path(source[1]).parent)})
    commit, _, dirty = done.stdout.strip().partition("-")
    now = text_of(commit, dirty) if done.returncode == 0 else None
    return now if now and now != stamp else None
