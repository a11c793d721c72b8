# SPDX-License-Identifier: GPL-2.0-or-later
"""Running pcachectl, and what holds for every run of it."""

import json
import subprocess

from measure.libpcache import BUILD

CTL = BUILD / "bin" / "pcachectl"
if not CTL.exists():
    raise FileNotFoundError(f"{CTL}: build it, or set PCACHE_BUILD")

DONE, FINDINGS, UNTRUSTED, FAILED = 0, 1, 2, 3  # exit statuses


class Ctl:
    """pcachectl in one working directory."""

    def __init__(self, folder=None):
        self.folder = folder

    @staticmethod
    def argv(*args):
        return [str(CTL)] + [str(arg) for arg in args]

    def call(self, *args, **kwargs):
        """Whatever comes of it; stdout is captured unless it is given."""
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "surrogateescape",
                  "timeout": 400, "cwd": self.folder} | kwargs
        return subprocess.run(self.argv(*args), check=False, **kwargs)

    def run(self, *args, code=DONE, **kwargs):
        """Ends with this status, and tells an error in one line: for FAILED always, else only for UNTRUSTED."""
        done = self.call(*args, **kwargs)
        told = f"pcachectl {' '.join(str(arg) for arg in args)}\n{done.stdout}{done.stderr}"
        assert done.returncode == code, f"exit status {done.returncode}, expected {code}: {told}"
        lines = done.stderr.splitlines()
        assert all(line.startswith("pcachectl: ") and len(line) > len("pcachectl: ") for line in lines), told
        least, most = {FAILED: (1, 1), UNTRUSTED: (0, 1)}.get(code, (0, 0))
        assert least <= len(lines) <= most, f"{len(lines)} lines on stderr: {told}"
        return done

    def refused(self, *args, code=FAILED, **kwargs):
        """The one line, without "pcachectl: "; nothing else is printed."""
        done = self.run(*args, code=code, **kwargs)
        assert done.stdout in ("", None) and done.stderr, done.stdout
        return done.stderr.removeprefix("pcachectl: ").rstrip("\n")

    def json(self, *args, code=DONE, **kwargs):
        """Of --json: the one object."""
        objects = self.jsons(*args, code=code, **kwargs)
        assert len(objects) == 1
        return objects[0]

    def jsons(self, *args, code=DONE, **kwargs):
        """Of --json: an object a line."""
        return [json.loads(line) for line in self.run(*args, "--json", code=code, **kwargs).stdout.splitlines()]

    def start(self, *args):
        """Not waited for; its output is thrown away."""
        return subprocess.Popen(self.argv(*args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                cwd=self.folder)
