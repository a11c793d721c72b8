# SPDX-License-Identifier: GPL-2.0-or-later
# What is installed besides programs and libraries, and the .deb of all of it (scripts/package).
install(FILES README.md CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# One file for all programs: it asks them what they take.
set(completions ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
set(completed)
if(PCACHE_BUILD_TOOLS)
  list(APPEND completed pcachectl pcached)
endif()
if(PCACHE_BUILD_UBLK)
  list(APPEND completed pcache-ublk)
endif()
if(with_bench)
  list(APPEND completed pcache-sweep pcache-microbench)
endif()
foreach(program IN LISTS completed)
  install(FILES scripts/completion.bash DESTINATION ${completions} RENAME ${program})
endforeach()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "the pcache project <pcache@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "cache for block devices in persistent memory, driven by fio")
set(CPACK_PACKAGE_DESCRIPTION "libpcache has the design and the on-media format of Linux's dm-pcache in user space.
fio runs it in its own process (--ioengine=external:/usr/lib/libpcache_fio.so); pcachectl
checks, shows and rescues images, also the kernel's; pcache-sweep measures.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
file(WRITE ${CMAKE_BINARY_DIR}/triggers "activate-noawait ldconfig\n")  # so that the library is found by its name
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_BINARY_DIR}/triggers)
# The engines refuse a fio of another version; what draws and judges results is in Python.
if(PCACHE_BUILD_ENGINE)
  get_directory_property(fio_version DIRECTORY engine DEFINITION fio_version)
endif()
if(fio_version MATCHES "^fio-([0-9]+)\\.([0-9]+)")
  math(EXPR next "${CMAKE_MATCH_2} + 1")
  set(CPACK_DEBIAN_PACKAGE_DEPENDS
      "fio (>= ${CMAKE_MATCH_1}.${CMAKE_MATCH_2}), fio (<< ${CMAKE_MATCH_1}.${next}~)")
endif()
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "nbdkit, python3-scipy, python3-matplotlib, python3-jinja2, python3-yaml")
include(CPack)
