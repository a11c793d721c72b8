# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep turns: hits of two builds in one process. What it prints, what it refuses, what it leaves behind."""

import json
import pathlib
import shutil
import signal
import subprocess

import pytest

from measure.libpcache import BUILD, MIB
from support import wait_until
from test_sweep_signals import hear_ctrl_c

SWEEP = BUILD / "bin" / "pcache-sweep"
CASES = [f"{rw} hit{crc}" for crc in ("", " data_crc=1") for rw in ("read", "write")]
NO_CACHE = "int pcache_open(void) { return 0; }\n"
# A WRITE is dropped, so what is read is a miss.
QUEUES = """
#define _GNU_SOURCE
#include <dlfcn.h>
int pcache_submit(void* queue, unsigned* request) {
  if (request[0] == 1) return 1;
  return ((int (*)(void*, unsigned*))dlsym(RTLD_NEXT, "pcache_submit"))(queue, request);
}
"""
DIES = "#include <stdlib.h>\nint pcache_submit(void* queue, void* request) { abort(); }\n"


def turns(*arguments):
    return subprocess.run([SWEEP, "turns", *map(str, arguments)], capture_output=True, text=True, timeout=200,
                          check=False)


@pytest.fixture
def places(shm, disk):
    return ["--cache-dir", shm, "--backing-dir", disk]


def left_in(*folders):
    return [path for folder in folders for path in folder.iterdir()]


def test_each_round_has_a_time_and_a_speed_of_each_case(places, shm, disk):
    done = turns(BUILD, BUILD, "--rounds", 2, *places)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["builds", "cases"] and len(found["builds"]) == 2 and found["builds"][0]
    assert list(found["cases"]) == CASES
    for measured in found["cases"].values():
        assert len(measured) == 2 and all(one["ns"] > 0 and one["speed"] > 0 for one in measured)
    assert not left_in(shm, disk)


@pytest.mark.parametrize("arguments, says", [
    ([BUILD], "BUILD"),
    ([BUILD, "/nowhere"], "/nowhere/lib/libpcache_fio.so: is not there"),
    ([BUILD, BUILD, "--rounds", 0], "--rounds 0: expected 1 to 1000"),
    ([BUILD, BUILD, "--rounds", 1001], "--rounds 1001: expected 1 to 1000"),
    ([BUILD, BUILD, "--cache-dir", "/nowhere"], "/nowhere: "),
    ([BUILD, BUILD, "--backing-dir", "/nowhere"], "/nowhere: "),
])
def test_wrong_use_is_named(arguments, says):
    done = turns(*arguments)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not done.stdout


def test_a_folder_without_room_is_refused(small_shm, disk):
    folder = small_shm(64)
    done = turns(BUILD, BUILD, "--cache-dir", folder, "--backing-dir", disk)
    assert done.returncode == 2 and f"{folder}: 2048 MiB are needed" in done.stderr, done.stderr
    assert not left_in(folder, disk)


@pytest.fixture
def other_library(tmp_path):
    """A build whose libpcache.so is made of this source."""
    def make(source):
        lib = tmp_path / "build" / "lib"
        lib.mkdir(parents=True)
        shutil.copy(BUILD / "lib" / "libpcache_fio.so", lib)
        (tmp_path / "other.c").write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", lib / "libpcache.so", tmp_path / "other.c"], check=True)
        return tmp_path / "build"
    return make


def test_a_library_that_is_none_is_refused(other_library, places, shm, disk):
    build = other_library(NO_CACHE)
    done = turns(BUILD, build, *places)
    assert done.returncode == 2 and f"{build}/lib/libpcache.so: has no pcache_options_init_sized()" in done.stderr
    (build / "lib" / "libpcache.so").write_text("no library")
    done = turns(BUILD, build, *places)
    assert done.returncode == 2 and f"{build}/lib/libpcache.so: " in done.stderr.splitlines()[-1]
    assert not left_in(shm, disk)


def over_the_real_one(tmp_path, submit):
    """A build whose library hands all but pcache_submit() on to the real one."""
    (tmp_path / "submit.c").write_text(submit)
    (tmp_path / "submit.map").write_text("PCACHE_2 { global: pcache_*; local: *; };\n")
    build = tmp_path / "build"
    shutil.copytree(BUILD / "lib", build / "lib", symlinks=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", build / "lib" / "libpcache.so", tmp_path / "submit.c",
                    f"-Wl,--version-script={tmp_path / 'submit.map'}", "-Wl,--no-as-needed",
                    (BUILD / "lib" / "libpcache.so.2").resolve(),
                    f"-Wl,-rpath,{(BUILD / 'lib').resolve()}"], check=True)
    return build


def test_a_request_that_is_no_hit_ends_it(tmp_path, places, shm, disk):
    done = turns(BUILD, over_the_real_one(tmp_path, QUEUES), *places)
    assert done.returncode == 2 and "libpcache.so: a request is no hit" in done.stderr, done.stderr
    assert not left_in(shm, disk)


def left_by_the_dead():
    """Scratch folders in /dev/shm whose process is gone."""
    return [path for path in pathlib.Path("/dev/shm").glob("pcache-sweep-*")
            if not pathlib.Path("/proc", path.name.split("-")[2]).exists()]


def test_a_library_that_dies_is_an_error_with_a_cause(tmp_path):
    """What it has left, the next one removes before it looks for room."""
    done = subprocess.run([SWEEP, "compare", BUILD, over_the_real_one(tmp_path, DIES), "--hits"], capture_output=True,
                          text=True, timeout=200, check=False)
    assert done.returncode == 2 and "turns: ended with -6" in done.stderr, done.stderr
    left = left_by_the_dead()
    assert turns(BUILD, BUILD, "--rounds", 1).returncode == 0
    assert not [path for path in left if path.exists()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_leaves_nothing(how, places, shm, disk):
    process = subprocess.Popen([SWEEP, "turns", BUILD, BUILD, *map(str, places), "--rounds", "500"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    wait_until(lambda: [path.stat().st_size for path in shm.glob("*/cache")] == [1024 * MIB] * 2)
    process.send_signal(how)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and "interrupted" in said
    assert not left_in(shm, disk)


@pytest.mark.parametrize("how, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_what_compare_has_started_ends_with_it(how, status):
    process = subprocess.Popen([SWEEP, "compare", BUILD, BUILD, "--hits", "--rounds", "500", "--most-rounds", "500"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: children.read_text())
    child = children.read_text().split()[0]
    def scratch():
        return list(pathlib.Path("/dev/shm").glob(f"pcache-sweep-{child}-*"))
    wait_until(scratch)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status and "Traceback" not in said
    wait_until(lambda: not scratch())
