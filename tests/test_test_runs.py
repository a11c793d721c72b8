# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tests themselves are run: each in the main thread of its process, also by pytest-xdist."""

import subprocess
import sys

from conftest import TESTS

TRIVIAL = """
import threading
def test_thread():
    assert threading.current_thread() is threading.main_thread()
"""


def run(*command):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=TESTS, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def trivial(disk):
    path = disk / "test_trivial.py"
    path.write_text(TRIVIAL)
    return path


def test_workers_are_not_asked_for_their_version(disk):
    """While one answers in its main thread, a test may begin in another."""
    status, said = run("-m", "pytest", "-p", "conftest", "-n", 2, "-v", trivial(disk))
    assert status == 0 and "1 passed" in said, said
    assert "PASSED" in said and "cwd:" not in said, said


def test_a_thread_that_is_not_the_main_one_is_refused(disk):
    program = ("import sys, threading, pytest; status = []\n"
               "thread = threading.Thread(target=lambda: status.append(pytest.main(sys.argv[1:])))\n"
               "thread.start(); thread.join(); sys.exit(status[0])")
    status, said = run("-c", program, "-p", "conftest", trivial(disk))
    assert status == 4, said  # pytest's USAGE_ERROR
    assert "a thread that is not the main one" in said and "passed" not in said, said
