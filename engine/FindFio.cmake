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
message(STATUS "fio: ${PCACHE_FIO} (${fio_version}), engine version ${fio_wanted_version}, "
               "headers in ${FIO_TREE}")
