# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process takes, with the cache that is attached in it."""
import pathlib
import re


def resident_bytes():
    """Without what is mapped from files."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


def cpu_ns():
    """Of all its threads; one that has ended has taken its time along."""
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)
