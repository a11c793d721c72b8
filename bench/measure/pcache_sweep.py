# SPDX-License-Identifier: GPL-2.0-or-later
"""The program pcache-sweep: it measures, and it alone looks at the machine and into the files of a build."""
import json
import os
import pathlib
import signal

from . import processes
from .errors import MeasureError

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRONG_USE, INTERRUPTED = 2, 130
FACTS_SECONDS = 60


def program():
    """That has started us; else of the build that is measured, or of this tree."""
    if named := os.environ.get("PCACHE_SWEEP"):
        return pathlib.Path(named)
    builds = [pathlib.Path(os.environ.get("PCACHE_BUILD", ROOT / "build")), ROOT / "build"]
    found = [path for build in builds if (path := build / "bin" / "pcache-sweep").exists()]
    if not found:
        raise MeasureError(f"{builds[0]}/bin/pcache-sweep: build it, or set PCACHE_SWEEP")
    return found[0].absolute()


def run(*arguments, quiet=False):
    """pcache-sweep run: its progress goes where ours goes, and told to end it removes its files."""
    command = [program(), "run", *arguments] + (["--quiet"] if quiet else [])
    done = processes.run(command, show_stderr=True, end_with=signal.SIGTERM)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode == WRONG_USE:
        raise SystemExit(WRONG_USE)  # it has said why
    if done.returncode != 0:
        raise MeasureError("a measurement has failed; what it said is above")


def turns(*arguments):
    """What `pcache-sweep turns` has measured."""
    done = processes.run([program(), "turns", *arguments], show_stderr=True, end_with=signal.SIGTERM)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode == WRONG_USE:
        raise SystemExit(WRONG_USE)  # it has said why
    if done.returncode != 0:
        raise MeasureError(f"pcache-sweep turns: ended with {done.returncode}; one of the two builds has ended it")
    return json.loads(done.stdout)


def facts(build, backing=None):
    """{host, stamps: {file of the build: what it says of itself}, source_tree}; see results/README.md."""
    command = [program(), "facts", "--build", build] + (["--backing", backing] if backing else [])
    done = processes.run(command, timeout_s=FACTS_SECONDS)
    if done.returncode != 0:
        raise MeasureError(f"{command[0]} facts: " + (done.stderr.strip().splitlines() or ["failed"])[-1])
    return json.loads(done.stdout)
