# SPDX-License-Identifier: GPL-2.0-or-later
# By which others find the installed library: `pkg-config pcache`, and find_package(pcache) with the
# target pcache::pcache. Both know their own place alone, so that the prefix may be moved.
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/pcache)

cmake_path(SET up "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}/${up}" OUTPUT_VARIABLE prefix_from_pc)
configure_file(capi/pcache.pc.in ${CMAKE_CURRENT_BINARY_DIR}/pcache.pc @ONLY)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/pcacheConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pcache.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/pcacheConfigVersion.cmake DESTINATION ${package_folder})
install(EXPORT pcache NAMESPACE pcache:: FILE pcacheConfig.cmake DESTINATION ${package_folder})
