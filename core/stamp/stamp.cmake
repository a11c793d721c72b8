# SPDX-License-Identifier: GPL-2.0-or-later
# cmake -D SOURCE=... -D OUT=... -D VERSION=... -D BUILD_TYPE=... -P stamp.cmake
#
# Writes OUT, a C file with one string: which commit a build is of. Run by every build; OUT stays as
# it is while that is the same, so that nothing is built anew.
cmake_path(GET SOURCE PARENT_PATH above)
set(ENV{GIT_CEILING_DIRECTORIES} ${above})  # a repository around an unpacked archive is not ours
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=40 --exclude=*
                OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                RESULT_VARIABLE failed)
set(commit unknown)
set(dirty 0)
if(failed STREQUAL "0" AND described MATCHES "^([0-9a-f]+)(-dirty)?$")
  set(commit ${CMAKE_MATCH_1})
  if(CMAKE_MATCH_2)
    set(dirty 1)
  endif()
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT [[
/* Read out of the file, by tools that look for its start (bench/sweep/stamp.h). */
extern const char pcache_build_stamp[];
__attribute__((used, visibility("hidden"))) const char pcache_build_stamp[] =
    "pcache build: commit=@commit@ dirty=@dirty@ version=@VERSION@ build_type=@BUILD_TYPE@\n";
]])
