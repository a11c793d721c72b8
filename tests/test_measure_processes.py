# SPDX-License-Identifier: GPL-2.0-or-later
"""The one runner of processes (bench/measure/processes.py): what it starts ends in time, with us, and with all it has
started; what is wrong is one line."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from measure import processes
from measure.errors import MeasureError
from measure.files import write_whole
from measure.scratch import new_folder
from support import wait_until
from test_sweep_signals import hear_ctrl_c, running_in

# bash takes the names for theirs.
WITH_CHILD = 'exec -a "$0/child" sleep 600 & exec -a "$0/parent" sleep 600'


def with_child(folder):
    """A command that starts another; both have the folder in their names."""
    return ["bash", "-c", WITH_CHILD, folder]


@pytest.fixture
def started_by_program(tmp_path):
    """A program that runs with_child() by the runner, and has begun to."""
    program = ("import sys\n"
               "from measure import entry, processes\n"
               "entry.run_main('it', lambda: processes.run(sys.argv[1:]))\n")
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, with_child(tmp_path))],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    wait_until(lambda: len([pid for pid in running_in(tmp_path) if pid != process.pid]) == 2)
    yield process
    process.kill()
    process.communicate()


def test_what_it_said_and_how_it_ended(tmp_path):
    done = processes.run(["sh", "-c", "pwd; echo bad >&2; exit 3"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path}\n", "bad\n")
    assert processes.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    assert processes.run(["printf", r"\377"]).stdout == "�", "whatever it says"


def test_a_program_that_is_not_there_is_one_line():
    with pytest.raises(MeasureError, match="^nothing-of-that-name: cannot be run: No such file or directory; "):
        processes.run(["/nowhere/nothing-of-that-name"])


@pytest.mark.parametrize("in_thread", [False, True])
def test_when_its_time_is_over_all_that_it_started_is_gone(tmp_path, in_thread):
    said = []

    def run():
        with pytest.raises(MeasureError) as wrong:
            processes.run(with_child(tmp_path), timeout_s=0.6)
        said.append(str(wrong.value))
    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(60)
    else:
        run()
    assert said == ["bash: has not ended after 0.6 s"]
    wait_until(lambda: not running_in(tmp_path))


def test_a_signal_that_lets_it_clean_up_is_followed_by_another(tmp_path, monkeypatch):
    """Of two programs, one cleans up, the other is deaf. Neither is told before it has said what it does then."""
    cleaned, ready, started = tmp_path / "cleaned", tmp_path / "ready", processes._start

    def start_and_wait(*arguments):
        child = started(*arguments)
        wait_until(ready.exists)
        return child
    monkeypatch.setattr(processes, "_start", start_and_wait)
    with pytest.raises(MeasureError):
        processes.run(["bash", "-c", f"trap 'touch {cleaned}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"],
                      timeout_s=0.6, end_with=signal.SIGTERM)
    assert cleaned.exists()
    ready.unlink()
    monkeypatch.setattr(processes, "PATIENCE_S", 0.5)
    with pytest.raises(MeasureError):
        processes.run(["bash", "-c", f"trap '' TERM; touch {ready}; sleep 600 & wait; sleep 600", tmp_path],
                      timeout_s=0.6, end_with=signal.SIGTERM)
    wait_until(lambda: not running_in(tmp_path))


@pytest.mark.parametrize("how, status, text", [(signal.SIGINT, 130, "it: interrupted\n"),
                                               (signal.SIGTERM, 143, "it: terminated\n")])
def test_told_to_end_it_takes_all_along(started_by_program, tmp_path, how, status, text):
    started_by_program.send_signal(how)
    assert started_by_program.communicate(timeout=60)[1] == text and started_by_program.returncode == status
    wait_until(lambda: not running_in(tmp_path))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runs", ["processes.run(sys.argv[1:])",
                                  "processes.running(sys.argv[1:], until_said='there').__enter__()"])
def test_told_while_it_starts_a_program_it_takes_that_along(tmp_path, runs, how):
    """The signal comes when the child is there and its starter does not know it yet."""
    program = ("import os, sys, subprocess\n"
               "from measure import entry, processes\n"
               "real = subprocess.Popen\n"
               "def started(command, **how):\n"
               "    child = real(command, stdout=subprocess.PIPE, **{k: v for k, v in how.items() if k != 'stdout'})\n"
               "    child.stdout.readline()\n"
               f"    os.kill(os.getpid(), {int(how)})\n"
               "    return child\n"
               "processes.subprocess.Popen = started\n"
               f"entry.run_main('it', lambda: {runs})\n")
    command = ["bash", "-c", f"echo there; {WITH_CHILD}", tmp_path]
    done = subprocess.run([sys.executable, "-c", program, *map(str, command)], stderr=subprocess.PIPE, text=True,
                          preexec_fn=hear_ctrl_c, timeout=60, check=False)
    assert (done.returncode, done.stderr) == {signal.SIGINT: (130, "it: interrupted\n"),
                                              signal.SIGTERM: (143, "it: terminated\n")}[how]
    wait_until(lambda: not running_in(tmp_path))


def test_killed_it_takes_what_it_started_along(started_by_program, tmp_path):
    """Not what that has started: nobody is left to do it."""
    started_by_program.kill()
    started_by_program.wait()
    wait_until(lambda: not running_in(tmp_path / "parent"))
    for pid in running_in(tmp_path):
        os.kill(pid, signal.SIGKILL)


def test_who_ends_ends_what_other_threads_run(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_groups", set())
    done = []
    thread = threading.Thread(target=lambda: done.append(processes.run(with_child(tmp_path))))
    thread.start()
    wait_until(lambda: len(running_in(tmp_path)) == 2)
    processes.end_all()
    thread.join(60)
    assert done[0].returncode == -signal.SIGKILL
    wait_until(lambda: not running_in(tmp_path))
    with pytest.raises(processes.Terminated):
        processes.run(["true"])


def test_a_wait_wakes_twice_a_second_and_no_more(monkeypatch):
    """It is beside what is measured. Of its waits all but the last last for half a second, or longer."""
    waits, select = [], processes.select.select
    monkeypatch.setattr(processes.select, "select", lambda *arguments: waits.append(arguments[3]) or select(*arguments))
    begin = time.monotonic()
    processes.run(["sleep", "2"])
    lasted = time.monotonic() - begin
    assert lasted >= 2 and 4 <= len(waits) <= 2 * lasted + 1 and set(waits) == {0.5}


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / "link").symlink_to(path)
    with open(path, encoding="utf-8") as old:
        write_whole(tmp_path / "link", "new")
        assert old.read() == "old"
    assert path.read_text() == "new" and sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]


def test_a_folder_is_gone_whatever_ends_it():
    for error in (MeasureError, KeyboardInterrupt):
        with pytest.raises(error):
            with new_folder("pcache-test-") as folder:
                (folder / "file").touch()
                raise error
        assert not folder.exists()
