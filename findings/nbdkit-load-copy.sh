#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# findings/nbdkit-load-copy.sh   what a plugin's load() writes into its struct nbdkit_plugin has no effect
#
# Expected: nbdkit-plugin(3), ".load": called once after the plugin is loaded, for any global
# initialization. A help text that is made from a table would be set there.
# Seen: nbdkit copies the struct before it calls load(), and looks at the copy alone: --help does not show
# the text, without a warning. What the library's constructor writes into the same field is shown.
# Hurts: the options of a plugin whose help is made at run time are not documented, and nothing says why.
# Guard: engine/nbdkit fills in its help in a constructor, and a test reads it.
set -euo pipefail
source "$(dirname "$0")/common.bash"
packages nbdkit=1.32.5-1 nbdkit-plugin-dev=1.32.5-1

cat >plugin.c <<'END'
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct nbdkit_plugin plugin;
#ifdef BY_LOAD
static void fill_in(void)
#else
static void nothing(void) {}
__attribute__((constructor)) static void fill_in(void)
#endif
{
  plugin.config_help = "colour=RED  help made at run time";
}

static void* open_it(int readonly) {
  (void)readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}
static int64_t size(void* handle) {
  (void)handle;
  return 512;
}
static int read_it(void* handle, void* buf, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)handle, (void)offset, (void)flags;
  for (uint32_t i = 0; i < count; i++) ((char*)buf)[i] = 0;
  return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "help",
#ifdef BY_LOAD
    .load = fill_in,
#else
    .load = nothing,
#endif
    .open = open_it,
    .get_size = size,
    .pread = read_it,
};
NBDKIT_REGISTER_PLUGIN(plugin)
END

# shown NAME [FLAG]: whether --help of such a plugin has the text.
shown() {
  cc -shared -fPIC -isystem root/usr/include ${2:+"$2"} plugin.c -o "$1.so" || return
  unpacked nbdkit "./$1.so" --help >"$1.txt" || return
  if grep -q "made at run time" "$1.txt"; then echo shown; else echo "not shown"; fi
}
load=$(shown load -DBY_LOAD) || exit 2
constructor=$(shown constructor) || exit 2
judge "by load(): shown; by a constructor: shown" "by load(): not shown; by a constructor: shown" \
  "by load(): $load; by a constructor: $constructor"
