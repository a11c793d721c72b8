# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that compare and gate run: they end with us, whatever ends us."""
import ctypes
import os
import signal
import subprocess

PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl
_groups = set()  # of those that count, by the threads of a pool


class Terminated(BaseException):
    """By SIGTERM."""


def watch_sigterm():
    def on_sigterm(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: now all is put away
        raise Terminated
    signal.signal(signal.SIGTERM, on_sigterm)


def run_until_we_end(command):
    """In the main thread. Its exit status; its standard output is dropped. It can put away what is its own."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL,
                          preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def run_captured(command):
    """In any thread; end_captured() ends it, and what it has started."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                          start_new_session=True) as child:
        _groups.add(child.pid)
        out, err = child.communicate()
        _groups.discard(child.pid)
        return subprocess.CompletedProcess(command, child.returncode, out, err)


def end_captured():
    for group in list(_groups):
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
