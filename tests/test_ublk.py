# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-ublk where the kernel has no ublk: its command line, and what it refuses. scripts/ublk-vm has the rest."""

import os
import re
import subprocess

import pytest

from measure.libpcache import BUILD, MIB, ROOT

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
    (["--id", ""], "--id: : a number from 0 to 1048575 is expected"),
    (["--id", "1048576"], "--id: 1048576: a number from 0 to 1048575 is expected"),
    (["--recover", "1048576"], "--recover: 1048576: a number from 0 to 1048575 is expected"),
    (["--delete", "1048576"], "--delete: 1048576: a number from 0 to 1048575 is expected"),
    (["--delete", "-1"], "--delete: -1: a number from 0 to 1048575 is expected"),
    (["-x"], "-x: there is no such option; see pcache-ublk --help"),
    (["--queues", "2", "-xy"], "-x: there is no such option; see pcache-ublk --help"),
    (["--recoverable=1"], "--recoverable=1: it takes no value; see pcache-ublk --help"),
    (["cache_dev=", "backing=/d"], "cache_dev= is missing: pcache-ublk cache_dev=PMEM backing=DISK"),
    (["cache_dev=/p", "backing="], "backing= is missing: pcache-ublk cache_dev=PMEM backing=DISK"),
    (["cache_dev=", "backing="], "cache_dev= is missing: pcache-ublk cache_dev=PMEM backing=DISK"),
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


# A file of a tmpfs in place of the driver: it takes no command. Another /dev, of this process alone.
OTHER_DRIVER = """
mount -t tmpfs tmpfs /mnt && touch /mnt/null /mnt/ublk-control && mkdir /mnt/shm &&
  mount --bind /dev/null /mnt/null && mount --rbind /dev/shm /mnt/shm && mount --move /mnt /dev && exec "$@"
"""


def can_unshare():
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="a private mount namespace takes root")
@pytest.mark.parametrize("blank", [True, False], ids=["a blank cache", "no cache"])
def test_what_the_driver_refuses_leaves_the_cache_as_it_is(shm, backing, blank):
    cache = shm / "new"
    if blank:
        cache.touch()
        os.truncate(cache, 512 * MIB)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", OTHER_DRIVER, "sh", UBLK, f"cache_dev={cache}",
         f"backing={backing}", "emulate_pmem=1", "cache_size=512m"],
        capture_output=True, text=True, check=False, timeout=60)
    assert refused(done).startswith("the kernel's ublk_drv takes no ADD_DEV of this kind: ")
    assert cache.stat().st_blocks == 0 if blank else not cache.exists()


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
