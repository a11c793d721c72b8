# SPDX-License-Identifier: GPL-2.0-or-later
"""The one runner of other programs. Each has a process group of its own, which is ended when we are told to end, when
its time is over, and when whoever waits for it fails.

Python hears a signal that comes just before a wait only behind it, and drops what a handler raises within a destructor.
So nothing here waits for longer than HEARD_S without looking whether we were told to end. Between the start of a
program and its end the signal is only noted: raised between two lines it would leave behind what has just been started.
"""
import contextlib
import ctypes
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import threading
import time

from .errors import MeasureError

PR_SET_PDEATHSIG = 1
HEARD_S = 0.5
PATIENCE_S = 30  # of a program that puts away what is its own; then it is killed
_prctl = ctypes.CDLL(None).prctl
_told = None  # what the signal raises that told us to end
_noting = 0  # of the main thread, which hears signals: > 0 while they raise nothing
_lock = threading.Lock()
_groups = set()  # under the lock: process groups that run; None: no more are started


class Terminated(BaseException):
    """By SIGTERM. Nobody takes it for an error, as with KeyboardInterrupt."""


RAISED_BY = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def watch_signals():
    """From now on Ctrl-C and SIGTERM are heard once: then all is put away, and a second one does not break that off."""
    def on_signal(number, _frame):
        global _told  # pylint: disable=global-statement
        _told = RAISED_BY[number]
        for one in RAISED_BY:
            signal.signal(one, signal.SIG_IGN)
        if not _noting:
            raise _told
    for number in RAISED_BY:
        if signal.getsignal(number) != signal.SIG_IGN:  # as for what a shell runs in the background
            signal.signal(number, on_signal)


def raise_if_told():
    if _told:
        raise _told


@contextlib.contextmanager
def _signals_are_noted(noted=True):
    """What comes within is raised by raise_if_told(), or behind it. With `noted` False at once again. In other threads
    neither."""
    global _noting  # pylint: disable=global-statement
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _noting = _noting, _noting + 1 if noted else 0
    try:
        if not noted:
            raise_if_told()
        yield
    finally:
        _noting = before
        if not before:
            raise_if_told()  # also in place of an error that comes of it


def run(command, *, cwd=None, timeout_s=None, show_stderr=False, end_with=signal.SIGKILL):
    """Runs a program to its end, in any thread; a CompletedProcess with what it said, whatever its exit status.

    MeasureError: it cannot be run, or has not ended after `timeout_s`. `show_stderr`: that goes where ours goes.
    `end_with`: the signal that ends its group; one that lets it clean up is followed by SIGKILL.
    """
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _signals_are_noted():
        child = _start(command, cwd, out, None if show_stderr else err, end_with)
        try:
            _wait(child, command, timeout_s)
        except BaseException:
            _end(child, end_with)
            raise
        finally:
            _reap(child)
        return subprocess.CompletedProcess(command, child.returncode, _text(out), _text(err))


@contextlib.contextmanager
def running(command, *, cwd=None, until_said=None):
    """Runs a program beside us, until the block ends: then it is told to end. MeasureError: it cannot be run; or it has
    ended before, with the last line of what it said. The block begins when it has said `until_said`."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as said, _signals_are_noted():
        child = _start(command, cwd, said, said, signal.SIGTERM)

        def is_running():
            raise_if_told()
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return True
            last = (_text(said).splitlines() or ["it said nothing"])[-1]
            raise MeasureError(f"{name_of(command)}: has ended: {last}")
        try:
            while until_said and is_running() and until_said.encode() not in os.pread(said.fileno(), 1 << 16, 0):
                time.sleep(0.01)
            with _signals_are_noted(False):
                yield is_running
        finally:
            _end(child, signal.SIGTERM)
            _reap(child)


def end_all():
    """We are about to end: what other threads run is killed, and nothing is started any more."""
    global _groups  # pylint: disable=global-statement
    with _lock:
        groups, _groups = _groups or (), None
        for group in groups:
            _kill_group(group, signal.SIGKILL)


def name_of(command):
    return pathlib.Path(command[0]).name


def _start(command, cwd, out, err, end_with):
    # The kernel sends the signal when the thread ends that has started the child. Only the main thread asks for it:
    # Python must not run between fork and exec where there are other threads.
    is_main = threading.current_thread() is threading.main_thread()
    with _lock:  # a group that has just been started is not overlooked
        if _groups is None:
            raise Terminated
        try:
            child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                     start_new_session=True,
                                     preexec_fn=(lambda: _prctl(PR_SET_PDEATHSIG, end_with)) if is_main else None)
        except OSError as error:
            raise MeasureError(f"{name_of(command)}: cannot be run: {error.strerror}; scripts/setup installs what is "
                               "needed") from None
        _groups.add(child.pid)
        return child


def _wait(child, command, timeout_s):
    """Does not reap the child: until then its process group is nobody else's."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    end = os.pidfd_open(child.pid)
    try:
        while not select.select([end], [], [], HEARD_S if deadline is None else min(HEARD_S, timeout_s))[0]:
            raise_if_told()
            if deadline is not None and time.monotonic() > deadline:
                raise MeasureError(f"{name_of(command)}: has not ended after {timeout_s:g} s")
    finally:
        os.close(end)


def _end(child, end_with):
    _kill_group(child.pid, end_with)
    if end_with == signal.SIGKILL:
        return
    end = os.pidfd_open(child.pid)
    try:
        if not select.select([end], [], [], PATIENCE_S)[0]:
            _kill_group(child.pid, signal.SIGKILL)
    finally:
        os.close(end)


def _reap(child):
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with _lock:  # end_all() kills no group of another that has got its number
        child.wait()
        if _groups is not None:
            _groups.discard(child.pid)


def _kill_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")
