# SPDX-License-Identifier: GPL-2.0-or-later
"""A build that is slower by a given part: its libpcache.so is one that hands every call on to the real one, and waits
after each submit for that part of the time since the one before. Nothing of the product knows of it."""

import re
import shutil
import subprocess

SUBMIT = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

static int (*real_submit)(void*, void*);
static __thread unsigned long long last;

int pcache_submit(void* queue, void* request) {
  int result = real_submit(queue, request);
  unsigned long long now = __rdtsc(), wait = last ? (unsigned long long)((now - last) * SLOWER_BY) : 0;
  if (wait > 50000) wait = 0; /* the time between was not ours */
  while (__rdtsc() - now < wait) continue;
  last = __rdtsc();
  return result;
}
"""
TRAMPOLINE = """
static void* real_{0};
__attribute__((naked)) void {0}(void) {{ __asm__("jmp *%0" ::"m"(real_{0})); }}
"""


def make_slowed(build, to, part):
    """Copies the plugins of `build` to the folder `to`, with a library between that is slower by `part`."""
    lib = to / "lib"
    lib.mkdir(parents=True)
    for name in ("libpcache_fio.so", "libpcache_raw.so"):
        shutil.copy(build / "lib" / name, lib / name)
    real = (build / "lib" / "libpcache.so.2").resolve()
    symbols = subprocess.run(["nm", "-D", "--defined-only", real], capture_output=True, text=True, check=True).stdout
    names = [n for n in re.findall(r" T (pcache_\w+)", symbols) if n != "pcache_submit"]
    assert len(names) > 10
    code = f"#define SLOWER_BY {part}\n" + SUBMIT + "".join(TRAMPOLINE.format(n) for n in names)
    code += f'\n__attribute__((constructor)) static void find(void) {{\n  void* real = dlopen("{real}", RTLD_NOW);\n'
    code += '  if (!real) { fprintf(stderr, "%s\\n", dlerror()); abort(); }\n'
    code += '  real_submit = dlsym(real, "pcache_submit");\n'
    code += "".join(f'  real_{n} = dlsym(real, "{n}");\n' for n in names) + "}\n"
    (to / "slow.c").write_text(code)
    (to / "slow.map").write_text("PCACHE_2 { global: pcache_*; local: *; };\n")
    subprocess.run(["cc", "-O2", "-w", "-shared", "-fPIC", "-fvisibility=default", "-o", lib / "libpcache.so.2",
                    to / "slow.c", "-Wl,-soname,libpcache.so.2", f"-Wl,--version-script={to / 'slow.map'}", "-ldl"],
                   check=True)
    (lib / "libpcache.so").symlink_to("libpcache.so.2")
    return to
