# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep run: the devices and files that it works on, and those that it must leave alone."""

import fcntl

from test_sweep import HEAD, run, write


def test_only_what_a_killed_sweep_left_is_removed(tmp_path):
    def folder(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("x")
        return tmp_path / name
    left = folder("pcache-sweep-4000001-aB3dEf", "lock", "cache", "bound")
    alive = folder("pcache-sweep-4000001-zzzzzz", "lock", "cache")
    users = [folder("pcache-sweep-4000001-results", "lock", "cache"), folder("pcache-sweep-4000001", "lock"),
             folder("pcache-sweep-4000001-abcdef", "lock", "cache", "notes"),
             folder("pcache-sweep-4000001-ABCDEF", "cache"), folder("pcache-sweep-4000001abcdef", "lock")]
    (users[1] / "cache").mkdir()
    # More than there is room for: it ends there, behind the cleaning.
    spec = write(tmp_path, HEAD + "matrix: {cache_size: 16t}\n")
    with open(alive / "lock", "r+", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "MiB are needed" in run("run", spec, "--cache-dir", tmp_path, ok=2).stderr
    assert not left.exists()
    assert alive.exists() and (alive / "cache").exists() and all(user.exists() for user in users)
    run("run", spec, "--cache-dir", tmp_path, ok=2)
    assert not alive.exists(), "its lock is free now"
