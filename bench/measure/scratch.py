# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders for the files that a measurement makes: looked at before, removed after, whatever ends it."""
import contextlib
import os
import pathlib
import shutil
import signal
import tempfile

from .errors import MeasureError
from .processes import RAISED_BY
from .sizes import MIB


def check_space(takes, shm, folder, hint):
    """MeasureError: one of the folders is not there, or has no room for the most of `takes`: (in shm, in folder),
    bytes."""
    for path in (shm, folder):
        if not path.is_dir():
            raise MeasureError(f"{path}: no such directory")
    needs = [(shm, max(above for above, _ in takes)), (folder, max(below for _, below in takes))]
    if os.stat(shm).st_dev == os.stat(folder).st_dev:
        needs = [(shm, max(map(sum, takes)))]
    for path, need in needs:
        if (free := shutil.disk_usage(path).free) < need:
            raise MeasureError(f"{path}: {free // MIB} MiB are free, {need // MIB} are needed; see {hint}")


@contextlib.contextmanager
def new_folders(*parents, prefix="pcache-measure-"):
    """A new folder in each parent. They are removed at the end: there may be gigabytes of memory in them. Only the main
    thread makes any."""
    with contextlib.ExitStack() as stack:
        made = [pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent.absolute())))
                for parent in parents]
        try:
            yield made
        finally:
            with _deaf():
                stack.close()


@contextlib.contextmanager
def new_folder(prefix):
    """One, where the system has its temporary files."""
    with new_folders(pathlib.Path(tempfile.gettempdir()), prefix=prefix) as (made,):
        yield made


@contextlib.contextmanager
def _deaf():
    """To a signal that would break off what is done meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in RAISED_BY}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
