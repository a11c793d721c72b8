# SPDX-License-Identifier: GPL-2.0-or-later
"""A backing device that fails 3 % of its writes: its pwrite() does, by a library between, under io_mode=threads."""

import json
import subprocess

import pytest

from fio import ENGINE, FIO, environment
from measure.libpcache import MIB
from support import make_backing

# Of the writes to the file that FLAKY_FILE names, of all threads together; at one place never more than twice in a
# row, whatever order the threads come in: the library leaves a write that has failed four times.
FLAKY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_ulong writes, failed;
static atomic_uchar in_a_row[64 << 20 >> 9];

static int is_flaky(int fd) {
  struct stat a, b;
  return !fstat(fd, &a) && !stat(getenv("FLAKY_FILE"), &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int fails(off_t off) {
  unsigned long n = atomic_fetch_add(&writes, 1) + strtoul(getenv("FLAKY_SEED"), 0, 10);
  n = (n + 1) * 0x9e3779b97f4a7c15ul;
  n = (n ^ n >> 31) * 0xbf58476d1ce4e5b9ul;
  if ((n >> 33) % 100 >= 3 || atomic_fetch_add(&in_a_row[off >> 9], 1) == 2) {
    in_a_row[off >> 9] = 0;
    return 0;
  }
  atomic_fetch_add(&failed, 1);
  return 1;
}

ssize_t pwrite64(int fd, const void* data, size_t len, off_t off) {
  static ssize_t (*real)(int, const void*, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
  if (is_flaky(fd) && fails(off)) return errno = EIO, -1;
  return real(fd, data, len, off);
}
ssize_t pwrite(int fd, const void* data, size_t len, off_t off) { return pwrite64(fd, data, len, off); }

__attribute__((destructor)) static void tell(void) {
  if (writes) fprintf(stderr, "flaky: %lu of %lu writes failed\n", failed, writes);
}
"""


@pytest.fixture(scope="module")
def flaky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flaky")
    (folder / "flaky.c").write_text(FLAKY)
    subprocess.run(["cc", "-O2", "-w", "-shared", "-fPIC", "-o", folder / "flaky.so", folder / "flaky.c", "-ldl"],
                   check=True)
    return folder / "flaky.so"


@pytest.mark.parametrize("seed", range(0, 4000, 1000))
def test_drains_and_takes_writes(flaky, pair, disk, seed):
    """Everything is on the device then, and each sector was written with success once."""
    pair.backing_path = make_backing(disk / "flaky", 64 * MIB)
    common = [f"--ioengine=external:{ENGINE}", f"--filename={pair.backing_path}", f"--cache_dev={pair.cache_path}",
              "--emulate_pmem=1", "--io_mode=threads", "--verify=crc32c", "--verify_state_save=0", "--bs=4k",
              "--size=64m", "--randseed=1"]
    stats = disk / "stats.json"
    env = environment(LD_PRELOAD=str(flaky), FLAKY_FILE=str(pair.backing_path), FLAKY_SEED=str(seed))
    done = subprocess.run([FIO, *common, "--name=w", "--rw=randwrite", "--do_verify=0", "--drain=1",
                           f"--stats_file={stats}"], capture_output=True, text=True, check=False, env=env, cwd=disk,
                          timeout=400)
    assert done.returncode == 0, done.stderr + done.stdout
    pair.used = True
    told = [line for line in done.stderr.splitlines() if line.startswith("flaky: ")]
    failed = int(told[0].split()[1])
    assert failed > 0, told
    status = json.loads(stats.read_text())
    assert status["writeback"]["failed_writes"] == failed
    assert status["writeback"]["errors"] == 0, "no batch was left"
    assert status["writeback"]["written_bytes"] == status["writeback"]["bytes"] == 64 * MIB
    assert status["dirty"]["bytes"] == 0
    assert "succeeded when they were repeated" in done.stderr
    plain = [option for option in common if not option.split("=")[0] in
             ("--ioengine", "--cache_dev", "--emulate_pmem", "--io_mode")]
    subprocess.run([FIO, *plain, "--name=w", "--rw=randread", "--do_verify=1", "--direct=1"], check=True,
                   capture_output=True, env=environment(), cwd=disk, timeout=400)
