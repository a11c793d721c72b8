# SPDX-License-Identifier: GPL-2.0-or-later
"""For scripts that measure: the folders of their files, looked at before, removed after; ended in one line."""

import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile

MIB = 1 << 20
GIB = 1 << 30
ENDED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(BaseException):
    """By SIGTERM. Nobody takes it for an error, as with KeyboardInterrupt."""


class Refused(Exception):
    """One line for the user."""


def check(takes, shm, folder, hint):
    """Refused: one of the folders is not there, or has no room for the most of `takes`: (in shm, in folder), bytes."""
    for path in (shm, folder):
        if not path.is_dir():
            raise Refused(f"{path}: no such directory")
    needs = [(shm, max(above for above, _ in takes)), (folder, max(below for _, below in takes))]
    if os.stat(shm).st_dev == os.stat(folder).st_dev:
        needs = [(shm, max(map(sum, takes)))]
    for path, need in needs:
        if (free := shutil.disk_usage(path).free) < need:
            raise Refused(f"{path}: {free // MIB} MiB are free, {need // MIB} are needed; see {hint}")


def check_fio(build, *engines):
    """Refused: fio, or an engine of the build, is not there."""
    if not shutil.which("fio"):
        raise Refused("fio is missing: run scripts/setup")
    for engine in engines:
        if not (path := build / "lib" / f"libpcache_{engine}.so").exists():
            raise Refused(f"{path}: build it, or set PCACHE_BUILD")
        if any(cut in str(path) for cut in "#;"):
            raise Refused(f"{path}: fio cuts a path at # and ;: give the build by another, such as a symbolic link, in "
                          "PCACHE_BUILD")


@contextlib.contextmanager
def _deaf():
    """To a signal that would break off what is done meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def made_in(*parents):
    """A new folder in each. They are removed at the end, whatever it is: there may be gigabytes of memory in them."""
    with contextlib.ExitStack() as stack:
        made = [pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent.absolute())))
                for parent in parents]
        try:
            yield made
        finally:
            with _deaf():
                stack.close()


def _terminate(*_):
    raise Terminated


def ended_in_one_line(script, main):
    """Runs main(); what ends it from outside, or is refused, is said in one line."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except (KeyboardInterrupt, Terminated) as end:
        number = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
        print(f"{script}: {ENDED[number]}", file=sys.stderr)
        sys.exit(128 + number)
    except (OSError, Refused) as error:  # the library's has its line in `text`
        sys.exit(f"{script}: {getattr(error, 'text', None) or error}")


def one_line(text):
    """What a program has said, without the cache's warning that its pmem is emulated."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip() and "emulated pmem" not in line)
