# SPDX-License-Identifier: GPL-2.0-or-later
"""Running fio with our engine."""

import json
import os
import re
import subprocess

import pytest

from measure import libpcache
from measure.libpcache import BUILD

FIO = os.environ.get("PCACHE_FIO", "/usr/bin/fio")  # scripts/other-fio sets it
ENGINE = BUILD / "lib" / "libpcache_fio.so"
# What the engine takes of the library's table, and its own.
OPTIONS = [option.fio for option in libpcache.OPTIONS.values() if option.fio] + ["stats_file", "stats_interval"]


def require_engine():
    """Without fio or the engine the tests fail: they are what the project is for."""
    if not os.path.exists(FIO):
        pytest.fail(f"{FIO} is missing: run scripts/setup", pytrace=False)
    if not ENGINE.exists():
        pytest.fail(f"{ENGINE} is missing: build it, or set PCACHE_BUILD", pytrace=False)


def fio_version():
    """Of the fio that runs, (3, 33)."""
    said = subprocess.run([FIO, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.match(r"fio-(\d+)\.(\d+)", said).groups())


def environment(**more):
    """Without LD_LIBRARY_PATH: the engine finds libpcache.so by itself."""
    env = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "LD_PRELOAD")}
    env.update(more)
    return env


def arguments(options):
    """--name=value of a dictionary; None leaves one out, True is a switch without a value."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
            if value is not None]


class Fio:
    """fio over one pair: a first section with the engine and the pair, then what run() is given."""

    def __init__(self, pair, folder):
        require_engine()
        self.pair, self.folder = pair, folder
        self.stats_path = folder / "stats.json"

    def engine_options(self, **more):
        options = {"ioengine": f"external:{ENGINE}", "filename": self.pair.backing_path,
                   "cache_dev": self.pair.cache_path, "emulate_pmem": 1, "stats_file": self.stats_path,
                   "prefault": "beside"}  # no test waits for all pages of which it uses a few
        options.update(more)
        return options

    def command(self, *jobs, **options):
        """`options` are of all jobs (fio has no --name before them), each job is a dictionary."""
        line = [FIO, "--output-format=json"]
        if not jobs:
            jobs = ({"name": "job"},)
        for job in jobs:
            job = {**options, **job}
            name = job.pop("name")
            line += [f"--name={name}"] + arguments(self.engine_options(**job))
        return line

    def start(self, *jobs, env=None, **options):
        return subprocess.run(self.command(*jobs, **options), capture_output=True, text=True, check=False,
                              cwd=self.folder, env=environment(**(env or {})), timeout=400)

    def run(self, *jobs, **options):
        """Must succeed; returns the jobs of the JSON on stdout, which must be all that is there."""
        done = self.start(*jobs, **options)
        assert done.returncode == 0, done.stderr + done.stdout
        self.pair.used = True
        result = json.loads(done.stdout)["jobs"]
        assert all(job["error"] == 0 for job in result)
        return result

    def refused(self, *words, jobs=(), env=None, **options):
        """Must fail, with one line of ours (or fio's) that has all `words`, and no I/O done."""
        done = self.start(*jobs, env=env, **options)
        assert done.returncode != 0, done.stdout
        lines = [line for line in done.stderr.splitlines() if all(str(word) in line for word in words)]
        assert len(lines) == 1, f"no single line names {words} in:\n{done.stderr}"
        return lines[0]

    @property
    def stats(self):
        return json.loads(self.stats_path.read_text())
