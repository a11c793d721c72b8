# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/ublk-vm and scripts/dax-vm without a virtual machine: which tests they run, and what they refuse."""

import os
import re
import shutil
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT

SUITES = ("ublk", "dax")


@pytest.mark.parametrize("suite", SUITES)
def test_each_test_of_the_machine_is_run_by_default(suite):
    text = (ROOT / f"tests/{suite}_vm.sh").read_text()
    defined = re.findall(r"^test_(\w+)\(\)", text, re.MULTILINE)
    listed = re.search(r"^judge_all ([\w\s\\]+)\Z", text, re.MULTILINE)[1].replace("\\", "").split()
    assert defined == listed and ". /tests/vm_judge.sh" in text


@pytest.mark.parametrize("asked, judged", [("", ["first", "second"]), ("second", ["second"])])
def test_the_judge(tmp_path, asked, judged):
    """A test that fails is told with its reason and what it has printed, and not counted."""
    script = """
      dd() { command dd "$@"; }
      show_logs() { echo of a log; }
      clean_up() { echo cleaned up; }
      test_first() { note by the way; }
      test_second() { echo its output && no "for a reason"; }
      judge_all first second
    """
    judge = (ROOT / "tests/vm_judge.sh").read_text().replace("/tmp/", f"{tmp_path}/")
    done = subprocess.run(["sh", "-c", judge + script], capture_output=True, text=True, check=True,
                          env=os.environ | {"VM_SUITE": "some", "VM_TESTS": asked})
    told = {"first": ["some-vm: ok    first: by the way", "cleaned up"],
            "second": ["some-vm: FAIL  second: for a reason", "    its output", "    of a log", "cleaned up"]}
    expected = [line for name in judged for line in told[name]]
    assert done.stdout.splitlines() == [*expected, f"some-vm: {len(judged) - 1} of {len(judged)} tests have passed"]


@pytest.mark.parametrize("suite", SUITES)
def test_a_test_that_is_not_there(suite):
    done = subprocess.run([ROOT / f"scripts/{suite}-vm", "nothing"], capture_output=True, text=True, check=False)
    first = re.search(r"^test_(\w+)\(\)", (ROOT / f"tests/{suite}_vm.sh").read_text(), re.MULTILINE)[1]
    assert done.returncode == 2
    assert done.stderr.startswith(f"{suite}-vm: nothing: no such test; there are: {first} ")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("apt_get, line", [
    ("exit 0", "takes the kernel from Debian's archive, and this machine's apt names none"),
    ("case $* in indextargets*) echo http://archive;; *update) echo E: no update; exit 100;; *) echo went on;; esac",
     "no kernel of Debian none-such: {}/build-vm/kernel.log: E: no update"),
], ids=["no archive", "no update"])
def test_why_there_is_no_kernel(disk, suite, apt_get, line):
    """In a copy of the tree, with other programs in place of those that it would install."""
    shutil.copytree(ROOT / "scripts", disk / "scripts")
    (disk / "tests").mkdir()
    shutil.copy(ROOT / f"tests/{suite}_vm.sh", disk / "tests")
    programs = disk / "programs"
    programs.mkdir()
    for name in ("apt-get", "qemu-system-x86_64", "busybox", "xz", "ndctl", "mkfs.xfs", "nbdkit"):
        (programs / name).write_text(f"#!/bin/sh\n{apt_get if name == 'apt-get' else 'exit 1'}\n")
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PCACHE_VM_KERNEL": "none-such",
                                "PCACHE_VM_BUILD": str(BUILD)}
    done = subprocess.run([disk / f"scripts/{suite}-vm"], capture_output=True, text=True, check=False, timeout=60,
                          env=environment)
    assert done.returncode == 1 and done.stderr.splitlines() == [f"{suite}-vm: {line.format(disk)}"], done
