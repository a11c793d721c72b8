# SPDX-License-Identifier: GPL-2.0-or-later
"""pcache-sweep run: the devices and files that it works on, and those that it must leave alone."""

import fcntl
import json
import os
import shutil
import signal
import subprocess

import pytest

from measure.libpcache import BUILD
from support import wait_until
from test_sweep import HEAD, SWEEP, lines_of, run, write

# What needs no cache, and little time.
DISK = HEAD.replace("1s", "300ms") + "matrix: {engine: uring, cache_size: 512m, working_set: 0.02, bs: 4k}\n"


def test_only_what_a_killed_sweep_left_is_removed(tmp_path):
    def folder(name, *files):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("x")
        return tmp_path / name
    left = folder("pcache-sweep-4000001-aB3dEf", "lock", "cache", "bound")
    alive = folder("pcache-sweep-4000001-zzzzzz", "lock", "cache")
    users = [folder("pcache-sweep-4000001-results", "lock", "cache"), folder("pcache-sweep-4000001", "lock"),
             folder("pcache-sweep-4000001-abcdef", "lock", "cache", "notes"),
             folder("pcache-sweep-4000001-ABCDEF", "cache"), folder("pcache-sweep-4000001abcdef", "lock")]
    (users[1] / "cache").mkdir()
    if os.geteuid() == 0:  # nobody else can give a folder away
        users.append(folder("pcache-sweep-4000001-AbCdEf", "lock", "cache"))
        os.chown(users[-1], 65534, 65534)
    held = {path for user in users for path in user.rglob("*")}
    # More than there is room for: it ends there, behind the cleaning.
    spec = write(tmp_path, HEAD + "matrix: {cache_size: 16t}\n")
    with open(alive / "lock", "r+", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "MiB are needed" in run("run", spec, "--cache-dir", tmp_path, ok=2).stderr
    assert not left.exists()
    assert alive.exists() and (alive / "cache").exists()
    assert {path for user in users for path in user.rglob("*")} == held, "all that is in them, too"
    run("run", spec, "--cache-dir", tmp_path, ok=2)
    assert not alive.exists(), "its lock is free now"


def test_each_round_has_a_file_of_its_own_for_all_its_cases(tmp_path):
    """Of one file a sweep would have the luck of where it lies in memory in all its figures."""
    seen, wrapper = tmp_path / "seen", tmp_path / "bin" / "fio"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""#!/bin/sh
for job; do :; done
stat -c %i "$(sed -n 's/^cache_dev=//p' "$job")" >> {seen}
exec {shutil.which("fio")} "$@"
""")
    wrapper.chmod(0o755)
    spec = write(tmp_path, HEAD.replace("1s", "300ms").replace("repeats: 1", "repeats: 3") +
                 "matrix: {engine: [pcache, bound], rw: randwrite, cache_size: 512m, working_set: 0.02}\n")
    run("run", spec, "--output", tmp_path / "run", "--backing-dir", tmp_path,
        env={**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"})
    files = seen.read_text().split()
    assert len(files) == 6
    assert [len(set(files[at:at + 2])) for at in (0, 2, 4)] == [1, 1, 1]
    assert len(set(files)) == 3


def make(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_relative_places_are_relative_to_where_one_stands(tmp_path):
    """Not to where fio stands: it would make a file of that name there, and measure it."""
    make(tmp_path / "cache", 512 << 20)
    make(tmp_path / "disk", 16 << 20)
    spec = write(tmp_path, DISK.replace("engine: uring", "engine: [uring, bound]"))
    run("run", spec, "--cache-dev", "cache", "--backing", "disk", "--overwrite", "--output", "run", cwd=tmp_path, ok=1)
    assert sorted(r["ok"] for r in lines_of(tmp_path / "run")) == [False, True], "the bound wants DAX"
    jobs = "".join(p.read_text() for p in (tmp_path / "run" / "raw").glob("*.fio"))
    assert f"filename={tmp_path}/disk\n" in jobs and f"cache_dev={tmp_path}/cache\n" in jobs
    assert not list((tmp_path / "run" / "raw").glob("disk*"))
    assert any((tmp_path / "disk").read_bytes()), "it was written to"


def test_a_colon_in_a_path_does_not_make_two_files_of_it(tmp_path):
    """fio would take what is before it and what is behind it for files, which it makes."""
    disk = make(tmp_path / "disk:0", 16 << 20)
    path = make(tmp_path / "path:0", 16 << 20)
    spec = write(tmp_path, DISK.replace("engine: uring", f"engine: [uring, 'path:{path}']"))
    run("run", spec, "--backing", disk, "--overwrite", "--output", tmp_path / "run")
    assert all(r["ok"] for r in lines_of(tmp_path / "run")) and any(disk.read_bytes()) and any(path.read_bytes())
    assert not [p for p in tmp_path.rglob("*") if p.name in ("disk", "path", "0")]


def test_a_dry_run_writes_nothing(tmp_path):
    run("run", write(tmp_path, DISK), "--output", tmp_path / "run", "--backing-dir", tmp_path)
    with open(tmp_path / "run" / "results.jsonl", "a", encoding="ascii") as file:
        file.write('{"number": 99, "ca')
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = run("run", "--resume", tmp_path / "run", "--repeats", 3, "--dry-run")
    assert "1 cases, 3 measurements" in done.stdout
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    run("run", "--resume", tmp_path / "run", "--repeats", 3, "--backing-dir", tmp_path)
    assert [r["number"] for r in lines_of(tmp_path / "run")] == [0, 1, 2]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["repeats"] == 3
    assert "has 3 rounds already" in run("run", "--resume", tmp_path / "run", "--repeats", 2, ok=2).stderr


@pytest.mark.parametrize("option, size, says", [
    ("--cache-dev", 4096, "expected a pmem device or a file of 512m or more, found 4k"),
    ("--cache-dev", 0, "found 0"),
    ("--backing", 1 << 20, "expected a block device or a file of 10m or more, found 1m"),
])
def test_what_is_too_small_is_named(tmp_path, option, size, says):
    given = make(tmp_path / "given", size)
    done = run("run", write(tmp_path, DISK), option, given, "--overwrite", "--output", tmp_path / "run", ok=2)
    assert f"pcache-sweep: {given}: " in done.stderr and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert given.stat().st_size == size and not (tmp_path / "run").exists()


def test_the_cache_device_is_not_the_backing_device_too(tmp_path):
    given = make(tmp_path / "given", 512 << 20)
    (tmp_path / "other").symlink_to(given)
    done = run("run", write(tmp_path, DISK), "--cache-dev", given, "--backing", tmp_path / "other", "--overwrite", ok=2)
    assert f"{tmp_path}/other: is the cache device, too ({given})" in done.stderr


def test_a_device_of_a_running_cache_is_left_alone(tmp_path):
    given = make(tmp_path / "given", 512 << 20)
    with open(given, "r+b") as file:
        file.write(b"all mine")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)  # as the library does
        done = run("run", write(tmp_path, DISK), "--cache-dev", given, "--overwrite", ok=2)
    assert f"{given}: a cache is running on it" in done.stderr
    assert given.read_bytes()[:8] == b"all mine"


def test_a_cache_that_is_started_meanwhile_keeps_its_ground(tmp_path):
    """While the first of two is measured, which lasts until then."""
    given, begun, go = make(tmp_path / "given", 512 << 20), tmp_path / "begun", tmp_path / "go"
    wrapper = tmp_path / "bin" / "fio"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""#!/bin/sh
case "$*" in *.fio) : > {begun}; while [ ! -e {go} ]; do sleep 0.05; done ;; esac
exec {shutil.which("fio")} "$@"
""")
    wrapper.chmod(0o755)
    spec = write(tmp_path, DISK.replace("repeats: 1", "repeats: 2"))
    process = subprocess.Popen([SWEEP, "run", spec, "--output", tmp_path / "run", "--cache-dev", given, "--overwrite",
                                "--backing-dir", tmp_path], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               text=True, env={**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"})
    wait_until(begun.exists)
    with open(given, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"all mine")
        file.flush()
        go.touch()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and f"{given}: cannot be blanked: " in said
    assert [r["ok"] for r in lines_of(tmp_path / "run")] == [True, False]
    assert given.read_bytes()[:8] == b"all mine"


# Somebody else holds what is at HELD, the first five times that it is tried.
HELD_LOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
int flock(int fd, int how) {
  static int left = 5;
  struct stat held, is;
  if ((how & LOCK_EX) && !fstat(fd, &is) && !stat(getenv("HELD"), &held) && is.st_ino == held.st_ino &&
      is.st_dev == held.st_dev && left-- > 0) {
    if (left == 0) close(open(getenv("GIVEN_BACK"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    return errno = EWOULDBLOCK, -1;
  }
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, how);
}
"""


def test_a_lock_that_is_given_back_within_a_second_is_waited_for(tmp_path):
    """As what a killed sweep has started gives it back, when it ends a moment later."""
    given = make(tmp_path / "given", 512 << 20)
    make(tmp_path / "disk", 16 << 20)
    write(tmp_path, HELD_LOCK, "held.c")
    library = tmp_path / "held.so"
    subprocess.run(["cc", "-w", "-shared", "-fPIC", "-o", library, tmp_path / "held.c", "-ldl"], check=True)

    def run_beside(path, *arguments):
        given_back = tmp_path / "given_back"
        run("run", *arguments, "--overwrite", env={**os.environ, "LD_PRELOAD": str(library),
                                                   "HELD": str(path), "GIVEN_BACK": str(given_back)})
        given_back.unlink()
    spec = write(tmp_path, DISK)
    places = ["--cache-dev", given, "--backing", tmp_path / "disk"]
    run_beside(given, spec, *places, "--output", tmp_path / "run")
    run_beside(tmp_path / "run", "--resume", tmp_path / "run", "--repeats", 2)
    assert len(lines_of(tmp_path / "run")) == 2


def test_a_second_run_gets_neither_the_devices_nor_the_folder(tmp_path):
    given = make(tmp_path / "given", 512 << 20)
    disk = make(tmp_path / "disk", 16 << 20)
    spec = write(tmp_path, DISK.replace("300ms", "600s"))
    process = subprocess.Popen([SWEEP, "run", spec, "--output", tmp_path / "run", "--cache-dev", given, "--backing",
                                disk, "--overwrite"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: list((tmp_path / "run" / "raw").glob("*.fio")))
        done = run("run", spec, "--cache-dev", given, "--overwrite", ok=2)
        assert f"{given}: another sweep is using it" in done.stderr and len(done.stderr.splitlines()) == 1
        assert f"{disk}: another sweep is using it" in run("run", spec, "--backing", disk, "--overwrite", ok=2).stderr
        done = run("run", "--resume", tmp_path / "run", ok=2)
        assert f"{tmp_path}/run: another pcache-sweep is writing to it" in done.stderr
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_run_goes_on_in_its_place_or_not_at_all(tmp_path):
    disk, other = make(tmp_path / "disk", 16 << 20), make(tmp_path / "other", 16 << 20)
    shutil.copytree(BUILD / "lib", tmp_path / "build" / "lib", symlinks=True)
    run("run", write(tmp_path, DISK), "--backing", disk, "--overwrite", "--output", tmp_path / "run", "--build",
        tmp_path / "build", cwd=tmp_path)
    resume = ["run", "--resume", tmp_path / "run", "--repeats", 2, "--overwrite"]
    done = run(*resume, "--backing", other, ok=2)
    assert f"--backing {other}: {tmp_path}/run was begun with {disk}" in done.stderr
    done = run(*resume, "--cache-dir", "/tmp", ok=2)
    assert f"--cache-dir /tmp: {tmp_path}/run was begun with /dev/shm" in done.stderr
    assert "--backing-dir /tmp" in run(*resume, "--backing-dir", "/tmp", ok=2).stderr
    # Another build in the same folder.
    library = tmp_path / "build" / "lib" / "libpcache_fio.so"
    content = library.read_bytes()
    library.write_bytes(content + b"x")
    assert f"{tmp_path}/build: was built anew" in run(*resume, ok=2).stderr
    library.write_bytes(content)
    assert len(lines_of(tmp_path / "run")) == 1
    run(*resume, "--backing", "./disk", cwd=tmp_path)
    run(*resume[:-3], "--repeats", 3, "--overwrite")
    jobs = [p.read_text() for p in (tmp_path / "run" / "raw").glob("*.fio")]
    assert len(jobs) == 3 and all(f"filename={disk}\n" in job.replace("/./", "/") for job in jobs)
    # Of before places were kept, when rounds had another order: it can be read, and not gone on with.
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    del info["place"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    assert "was begun by an earlier pcache-sweep" in run(*resume[:-3], "--overwrite", ok=2).stderr
    run("report", tmp_path / "run")
