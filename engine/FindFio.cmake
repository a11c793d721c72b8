# SPDX-License-Identifier: GPL-2.0-or-later
# Finds the installed fio and a configured source tree of the same engine version: FIO_TREE.
#
# fio refuses an engine whose FIO_IOOPS_VERSION is not its own, and says so only when it loads it.
# Here it is said at configure time. The installed fio is asked by letting it load a library whose
# version is absurd: its answer is "bad ioops version 32123 (want N)".

find_program(PCACHE_FIO NAMES fio DOC "The fio that will load the engines")
if(NOT PCACHE_FIO)
  message(FATAL_ERROR "fio is not installed. Run scripts/setup, or apt-get install fio.")
endif()
execute_process(COMMAND ${PCACHE_FIO} --version OUTPUT_VARIABLE fio_version
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT fio_version MATCHES "^fio-")
  message(FATAL_ERROR "${PCACHE_FIO} --version says '${fio_version}' instead of fio-VERSION.")
endif()

# ---- The tree ----
if(PCACHE_FIO_SOURCE)
  set(FIO_TREE ${PCACHE_FIO_SOURCE})
  set(fio_tree_hint
      "Correct -DPCACHE_FIO_SOURCE, or unset it (-UPCACHE_FIO_SOURCE) and run scripts/setup.")
else()
  set(fio_cache $ENV{XDG_CACHE_HOME})
  if(NOT fio_cache)
    set(fio_cache $ENV{HOME}/.cache)
  endif()
  set(FIO_TREE ${fio_cache}/pcache/${fio_version})
  set(fio_tree_hint "Run scripts/setup, or give a configured source tree: -DPCACHE_FIO_SOURCE=DIR.")
endif()
if(NOT EXISTS ${FIO_TREE}/ioengines.h)
  message(FATAL_ERROR "No source tree of ${fio_version} (the installed ${PCACHE_FIO}) in "
                      "${FIO_TREE}. ${fio_tree_hint}")
endif()
if(NOT EXISTS ${FIO_TREE}/config-host.h)
  message(FATAL_ERROR "The fio tree ${FIO_TREE} is not configured: it has no config-host.h. "
                      "Run ./configure in it.")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${FIO_TREE}/ioengines.h)

# ---- Its version, and the version that the installed fio wants ----
file(STRINGS ${FIO_TREE}/ioengines.h fio_tree_version REGEX "^#define[ \t]+FIO_IOOPS_VERSION[ \t]")
if(NOT fio_tree_version MATCHES "([0-9]+)[ \t]*$")
  message(FATAL_ERROR "${FIO_TREE}/ioengines.h defines no FIO_IOOPS_VERSION: is it a fio tree?")
endif()
set(fio_tree_version ${CMAKE_MATCH_1})

# The first members of struct ioengine_ops are the same in every fio; the rest is zero and not
# looked at once the version is wrong.
set(probe ${CMAKE_CURRENT_BINARY_DIR}/version_probe)
file(WRITE ${probe}.c "
struct { void *list[2]; const char *name; int version; int flags; void *rest[64]; }
ioengine = { .name = \"probe\", .version = 32123 };
")
execute_process(COMMAND ${CMAKE_C_COMPILER} -shared -fPIC -o ${probe}.so ${probe}.c
                RESULT_VARIABLE probe_failed ERROR_VARIABLE probe_text)
if(probe_failed)
  message(FATAL_ERROR "Cannot build ${probe}.so: ${probe_text}")
endif()
execute_process(COMMAND ${PCACHE_FIO} --parse-only --name=probe --ioengine=external:${probe}.so
                        --filename=probe --size=4k
                WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
                OUTPUT_VARIABLE probe_text ERROR_VARIABLE probe_text TIMEOUT 30)
if(NOT probe_text MATCHES "bad ioops version 32123 \\(want ([0-9]+)\\)")
  message(FATAL_ERROR "${PCACHE_FIO} does not tell which engine version it wants. "
                      "It answered: ${probe_text}")
endif()
set(fio_wanted_version ${CMAKE_MATCH_1})

if(NOT fio_tree_version EQUAL fio_wanted_version)
  message(FATAL_ERROR
    "fio versions differ: the installed ${PCACHE_FIO} (${fio_version}) wants engine version "
    "${fio_wanted_version}, the source tree ${FIO_TREE} has ${fio_tree_version}. ${fio_tree_hint}")
endif()

# ---- Its layout, and that of the installed fio ----
# The version does not tell trees apart that have the same one and other structs. The engine refuses
# such a fio when it is loaded (fio_layout.h); here its very check is run.
set(probe ${CMAKE_CURRENT_BINARY_DIR}/layout_probe)
file(WRITE ${probe}.c "
#include \"fio_layout.h\"
__attribute__((constructor)) static void ask(void) {
  if (fio_option_find && fio_layout_fits()) fprintf(stderr, \"layout fits\\n\");
}
")
execute_process(COMMAND ${CMAKE_C_COMPILER} -shared -fPIC -w -std=gnu17 -D_GNU_SOURCE -D_LARGEFILE_SOURCE
                        -D_FILE_OFFSET_BITS=64 -I${CMAKE_CURRENT_SOURCE_DIR} -isystem ${FIO_TREE} -Wl,-z,lazy
                        -o ${probe}.so ${probe}.c ${CMAKE_CURRENT_SOURCE_DIR}/fio_layout.c
                        ${CMAKE_CURRENT_SOURCE_DIR}/message.c
                RESULT_VARIABLE probe_failed ERROR_VARIABLE probe_text)
if(probe_failed)
  message(FATAL_ERROR "Cannot compile with the headers in ${FIO_TREE}. ${fio_tree_hint}\n${probe_text}")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -E env LD_PRELOAD=${probe}.so ${PCACHE_FIO} --version
                OUTPUT_QUIET ERROR_VARIABLE probe_text TIMEOUT 30)
if(NOT probe_text MATCHES "layout fits")
  string(REGEX MATCH "pcache: [^\n]*" probe_text "${probe_text}")
  message(FATAL_ERROR "The headers in ${FIO_TREE} are not those of the installed ${PCACHE_FIO} (${fio_version}): "
                      "${probe_text}. ${fio_tree_hint}")
endif()

# That all compared members agree does not show that all members do; that both are of one package does.
file(REAL_PATH ${PCACHE_FIO} fio_real)
set(fio_package)
find_program(PCACHE_DPKG_QUERY NAMES dpkg-query)
mark_as_advanced(PCACHE_DPKG_QUERY)
if(PCACHE_DPKG_QUERY)
  execute_process(COMMAND ${PCACHE_DPKG_QUERY} -S ${fio_real} OUTPUT_VARIABLE owner ERROR_QUIET)
  if(owner MATCHES "^fio:")
    execute_process(COMMAND ${PCACHE_DPKG_QUERY} -W -f "\${source:Version}" fio
                    OUTPUT_VARIABLE fio_package ERROR_QUIET)
  endif()
endif()
set(fio_tree_package)
if(EXISTS ${FIO_TREE}/.pcache-stamp)
  file(STRINGS ${FIO_TREE}/.pcache-stamp fio_tree_package LIMIT_COUNT 1)
endif()
if(fio_package AND NOT fio_tree_package STREQUAL fio_package)
  message(WARNING "The headers in ${FIO_TREE} are not from the source of the installed package, fio ${fio_package}. "
                  "Where it was looked they agree with it. scripts/setup gets the package's own where it can.")
endif()
message(STATUS "fio: ${PCACHE_FIO} (${fio_version}), engine version ${fio_wanted_version}, "
               "headers in ${FIO_TREE}")
