# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are read only if they are files, and written whole or not at all."""
import os
import pathlib
import stat
import tempfile

from .errors import MeasureError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device",
         stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def read_text(path):
    """Of a regular file: another may never begin, or never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise MeasureError(f"{path}: expected a file, found {KINDS.get(stat.S_IFMT(mode), 'something else')}")
    return path.read_text(encoding="utf-8")


def write_whole(path, text):
    """Whoever reads the path meanwhile reads the old content, or the new one."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.resolve().parent) as folder:
        new = pathlib.Path(folder, "new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, path.resolve())
