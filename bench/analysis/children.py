# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that compare and gate run: they end with us, whatever ends us.

Python hears a signal that comes just before a wait only behind it, and drops what a handler raises within a destructor.
So nothing here waits for longer than HEARD_S without looking whether we were told to end.
"""
import ctypes
import os
import select
import signal
import subprocess
import threading

PR_SET_PDEATHSIG = 1
HEARD_S = 0.5
_prctl = ctypes.CDLL(None).prctl
_told = False
_lock = threading.Lock()
_groups = set()  # under the lock: of those that count, by the threads of a pool; None: no more are started


class Terminated(BaseException):
    """By SIGTERM."""


def watch_sigterm():
    def on_sigterm(*_):
        global _told  # pylint: disable=global-statement
        _told = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: now all is put away
        raise Terminated
    signal.signal(signal.SIGTERM, on_sigterm)


def raise_if_told():
    if _told:
        raise Terminated


def run_until_we_end(command):
    """In the main thread. Its exit status; its standard output is dropped. It can put away what is its own."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL,
                          preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)) as child:
        try:
            end = os.pidfd_open(child.pid)
            while not select.select([end], [], [], HEARD_S)[0]:
                raise_if_told()
            os.close(end)
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


def run_captured(command):
    """In any thread; end_captured() ends it, and what it has started."""
    with _lock:  # one that has just been started is not overlooked
        if _groups is None:
            raise Terminated
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                   start_new_session=True)
        _groups.add(started.pid)
    with started as child:
        out, err = child.communicate()
        with _lock:
            if _groups is not None:
                _groups.discard(child.pid)
        return subprocess.CompletedProcess(command, child.returncode, out, err)


def end_captured():
    """We are about to end: nothing is started any more."""
    global _groups  # pylint: disable=global-statement
    with _lock:
        groups, _groups = _groups or (), None
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
