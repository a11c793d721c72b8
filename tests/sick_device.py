# SPDX-License-Identifier: GPL-2.0-or-later
"""A backing file that fails or hangs, in a program that drives it with io_mode=threads.

A library for LD_PRELOAD takes the place of pread, pwrite, fdatasync and fsync. For the one file it first does what a
second file, the ailment, says at that moment: nothing when that file is missing or empty, "hang" (wait until it says
something else), an errno of writes and syncs, "late" and one (reads fail with it after a second), or "slow" and
milliseconds (that writes take).
"""

import os
import subprocess

CODE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static struct stat file;
__attribute__((constructor)) static void begin(void) { stat(getenv("SICK_FILE"), &file); }

/* A request is held up: one byte more in SICK_HELD. */
static void tell(void) {
  int at = open(getenv("SICK_HELD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (at < 0 || write(at, "x", 1) != 1) abort();
  close(at);
}

/* 0: healthy. */
static int ailment(int fd, int is_write) {
  struct stat now;
  int told = 0;
  if (fstat(fd, &now) || now.st_ino != file.st_ino || now.st_dev != file.st_dev) return 0;
  for (;; usleep(5000)) {
    char text[64] = "";
    int at = open(getenv("SICK_AILMENT"), O_RDONLY | O_CLOEXEC);
    if (at < 0) return 0;
    if (read(at, text, sizeof text - 1) < 0) text[0] = 0;
    close(at);
    if (!strcmp(text, "hang reads") && is_write) return 0;
    if (!strncmp(text, "late ", 5)) {
      if (is_write) return 0;
      sleep(1);
      return atoi(text + 5);
    }
    if (!strncmp(text, "slow ", 5)) {
      if (is_write) usleep(1000 * atoi(text + 5));
      return 0;
    }
    if (!strncmp(text, "hang", 4)) {
      if (!told++) tell();
      continue;
    }
    return is_write ? atoi(text) : 0;
  }
}
#define BEFORE(is_write) do { int e = ailment(fd, is_write); if (e) { errno = e; return -1; } } while (0)

ssize_t pread(int fd, void* buf, size_t n, off_t off) {
  static ssize_t (*real)(int, void*, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pread");
  BEFORE(0);
  return real(fd, buf, n, off);
}
ssize_t pread64(int fd, void* buf, size_t n, off_t off) { return pread(fd, buf, n, off); }
ssize_t pwrite(int fd, const void* buf, size_t n, off_t off) {
  static ssize_t (*real)(int, const void*, size_t, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite");
  BEFORE(1);
  return real(fd, buf, n, off);
}
ssize_t pwrite64(int fd, const void* buf, size_t n, off_t off) { return pwrite(fd, buf, n, off); }
int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  BEFORE(1);
  return real(fd);
}
int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  BEFORE(1);
  return real(fd);
}
"""


class SickDevice:
    def __init__(self, path, folder):
        self.path, self.ailment, self.held_path = path, folder / "ailment", folder / "held"
        (folder / "sick.c").write_text(CODE)
        self.library = folder / "sick.so"
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", self.library, folder / "sick.c",
                        "-ldl"], check=True)

    @property
    def environment(self):
        return {"LD_PRELOAD": str(self.library), "SICK_FILE": str(self.path), "SICK_AILMENT": str(self.ailment),
                "SICK_HELD": str(self.held_path)}

    @property
    def held(self):
        """Requests that have been held up."""
        return self.held_path.stat().st_size if self.held_path.exists() else 0

    def set(self, text):
        """"" heals it; "hang", "hang reads"; an errno for writes and flushes; "late ERRNO" for reads; "slow MS"."""
        new = self.ailment.with_suffix(".new")
        new.write_text(str(text))
        os.rename(new, self.ailment)


SLOW_CALLS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void* real(const char* name) {
  void* library = dlopen("libpcache.so.2", RTLD_LAZY | RTLD_NOLOAD);
  return library ? dlsym(library, name) : (abort(), (void*)0);
}

/* Seconds, with a page written to a device ten times in each of them. */
static void work(int seconds) {
  static char page[4096] __attribute__((aligned(4096)));
  int at = open(getenv("SLOW_FILE"), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
  for (int i = 0; i < 10 * seconds; i++, usleep(100000))
    if (pwrite(at, page, sizeof page, 0) != sizeof page) abort();
  close(at);
}

int pcache_open(const void* options, void** out, void* error) {
  if (getenv("SLOW_OPEN")) {
    fputs("slow opening\n", stderr);
    sleep(atoi(getenv("SLOW_OPEN")));
  }
  return ((int (*)(const void*, void**, void*))real("pcache_open"))(options, out, error);
}
int pcache_close(void* cache, void* error) {
  if (getenv("SLOW_CLOSE")) work(atoi(getenv("SLOW_CLOSE")));
  return ((int (*)(void*, void*))real("pcache_close"))(cache, error);
}
"""


def slow_calls(folder, **seconds):
    """The environment in which the library's calls (open, close) take so much longer; close writes meanwhile."""
    code, library = folder / "slow.c", folder / "slow.so"
    code.write_text(SLOW_CALLS)
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, code, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_FILE": str(folder / "slow.data"),
            **{f"SLOW_{call.upper()}": str(value) for call, value in seconds.items()}}
