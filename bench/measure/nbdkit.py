# SPDX-License-Identifier: GPL-2.0-or-later
"""An nbdkit that listens at a UNIX socket, for as long as a measurement takes."""
import contextlib
import time

from . import processes
from .errors import MeasureError

READY_S = 60


@contextlib.contextmanager
def serving(socket, *plugin):
    """`plugin`: its name or path, and its parameters. Ready when the block begins."""
    started = socket.with_suffix(".pid")  # written when it listens; the socket is there before that
    started.unlink(missing_ok=True)
    with processes.running(["nbdkit", "--foreground", "--pidfile", started, "--unix", socket, *plugin]) as is_running:
        deadline = time.monotonic() + READY_S
        while is_running() and not started.exists():
            if time.monotonic() > deadline:
                raise MeasureError(f"nbdkit: does not listen after {READY_S} s")
            time.sleep(0.01)
        yield
