# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-ublk where the kernel has no ublk: its command line, and what it refuses. scripts/ublk-vm has the rest."""

import os
import re
import subprocess

import pytest

from measure.libpcache import BUILD, ROOT

UBLK = BUILD / "bin/pcache-ublk"
CONTROL = "/dev/ublk-control"


def run(*arguments, **more):
    return subprocess.run([UBLK, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, **more)


def refused(done):
    """The one line, without the program's name."""
    assert done.returncode == 3 and done.stdout == "", done
    line, = done.stderr.splitlines()
    assert line.startswith("pcache-ublk: "), done
    return line.removeprefix("pcache-ublk: ")


@pytest.mark.parametrize("arguments, line", [
    ([], "cache_dev= is missing: pcache-ublk cache_dev=PMEM backing=DISK"),
    (["cache_dev=/p"], "backing= is missing: pcache-ublk cache_dev=PMEM backing=DISK"),
    (["--sideways"], "--sideways: there is no such option; see pcache-ublk --help"),
    (["--queues"], "--queues: a value is missing; see pcache-ublk --help"),
    (["--queues", "0"], "--queues: 0: a number from 1 to 4096 is expected"),
    (["--depth", "4097"], "--depth: 4097: a number from 1 to 4096 is expected"),
    (["--depth", "8x"], "--depth: 8x: a number from 1 to 4096 is expected"),
    (["--id", ""], "--id: : a number from 0 to 2147483647 is expected"),
    (["--delete", "-1"], "--delete: -1: a number from 0 to 2147483647 is expected"),
    (["/p", "/d"], "/p: KEY=VALUE is expected; see pcache-ublk --help"),
    (["dirt=1"], "dirt=1: there is no such option; see pcache-ublk --help"),
    (["backing_path=/d"], "backing_path=/d: there is no such option; see pcache-ublk --help"),
    (["gc_percent=91"], "option gc_percent=91: expected a number from 0 to 90, or media"),
    (["--delete", "0", "cache_dev=/p"], "--delete N takes nothing else"),
    (["--delete", "0", "--recover", "0"], "--delete N takes nothing else"),
    (["--recover", "0", "--depth", "8", "cache_dev=/p", "backing=/d"],
     "--recover N takes no --queues, --depth, --id or --recoverable: the device has them"),
])
def test_wrong_use_is_one_line(arguments, line):
    assert refused(run(*arguments)) == line


@pytest.mark.skipif(os.path.exists(CONTROL), reason="this kernel has ublk_drv: scripts/ublk-vm has the tests of it")
@pytest.mark.parametrize("more", [[], ["--recover", 0], ["--recoverable", "--queues", 2]])
def test_a_kernel_without_ublk_is_one_line_and_nothing_is_touched(cache_file, backing, more):
    """Before the cache is opened: a blank one stays blank."""
    before = [(os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in (cache_file, backing)]
    line = refused(run(f"cache_dev={cache_file}", f"backing={backing}", "emulate_pmem=1", *more))
    assert line.startswith(f"{CONTROL}: the kernel has no ublk_drv: modprobe ublk_drv (Linux 6.4 or newer")
    assert before == [(os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in (cache_file, backing)]


@pytest.mark.skipif(os.path.exists(CONTROL), reason="this kernel has ublk_drv: scripts/ublk-vm has the tests of it")
def test_delete_without_ublk_is_one_line():
    assert "the kernel has no ublk_drv" in refused(run("--delete", 0))


def test_help_has_each_key_and_option():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    keys = set(re.findall(r"^(\w+)=<(?:PATH|VALUE)>$", done.stdout, re.MULTILINE))
    plugin = subprocess.run(["nbdkit", BUILD / "lib/nbdkit-pcache-plugin.so", "--help"], capture_output=True, text=True,
                            check=False).stdout
    assert keys == set(re.findall(r"^(\w+)=<(?:PATH|VALUE)>$", plugin, re.MULTILINE)) and "backing" in keys
    page = (ROOT / "engine/ublk/pcache-ublk.1").read_text().replace("\\-", "-")
    options = set(re.findall(r"^  (--\w+)", done.stdout, re.MULTILINE))
    assert len(options) == 8 and not [option for option in options if option not in page]


def test_each_test_of_the_machine_is_run_by_default():
    text = (ROOT / "tests/ublk_vm.sh").read_text()
    defined = re.findall(r"^test_(\w+)\(\)", text, re.MULTILINE)
    listed = re.search(r"UBLK_VM_TESTS:-([\w ]+)\}", text)[1].split()
    assert defined == listed


def test_the_script_names_a_test_that_is_not_there():
    done = subprocess.run([ROOT / "scripts/ublk-vm", "fua", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("ublk-vm: nothing: no such test; there are: refusals ")
