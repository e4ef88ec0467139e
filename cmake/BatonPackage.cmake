# Debian packages by CPack: libbaton0 (runtime), libbaton-kv0 (kv), libbaton-dev (dev), baton-tools (tools). `./dev package` builds them into build/package.
# What an ELF file needs is found by dpkg-shlibdeps; what it loads (libfabric), what a package needs of another of ours, and what linking an archive needs, stands here.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME baton)
set(CPACK_PACKAGE_CONTACT "Baton maintainers <maintainers@baton.invalid>" CACHE STRING "the Maintainer field of the packages")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL runtime kv dev tools)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

# debian_package(COMPONENT NAME SECTION DEPENDS DESCRIPTION)
macro(debian_package component name section depends description)
  string(TOUPPER ${component} key)
  set(CPACK_DEBIAN_${key}_PACKAGE_NAME ${name})
  set(CPACK_DEBIAN_${key}_PACKAGE_SECTION ${section})
  set(CPACK_DEBIAN_${key}_PACKAGE_DEPENDS "${depends}")
  set(CPACK_COMPONENT_${key}_DESCRIPTION "${description}")
  install(FILES ${CMAKE_SOURCE_DIR}/cmake/debian-copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${name} RENAME copyright COMPONENT ${component})
endmacro()
set(this "(= ${PROJECT_VERSION})")
debian_package(runtime libbaton0 libs ""
  "Baton, a HAL for disaggregated inference: library, drivers, emulators
The C ABI of Baton, its drivers (host, AWS Neuron, Cerebras CS-3), and the emulators that stand where the vendors' interfaces stand.")
debian_package(kv libbaton-kv0 libs "libbaton0 ${this}, libfabric1"
  "Baton, a HAL for disaggregated inference: moving a KV-cache
The C ABI of Baton's transport: sessions, KV layouts, and pushes of a KV-cache between two processes or hosts.")
debian_package(dev libbaton-dev libdevel
  "libbaton0 ${this}, libbaton-kv0 ${this}, libfmt-dev, nlohmann-json3-dev, libfabric1, libsodium-dev, libssl-dev, libxxhash-dev, liburing-dev, libibverbs-dev, librdmacm-dev, libhwloc-dev, pkg-config"
  "Baton, a HAL for disaggregated inference: headers, archives, examples
To build an inference runtime or a driver on Baton: hal/baton.h, hal/baton.hpp, the portable program, the transport; for CMake and pkg-config.")
debian_package(tools baton-tools utils "libbaton0 ${this}, libfabric1"
  "Baton, a HAL for disaggregated inference: tools and a demo model
devctl looks into a machine; baton prefills on one device, hands the KV-cache over and decodes on another; baton-emu-cs3 is a wafer.")
set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS "libgtest-dev, libcurl4-openssl-dev")  # Baton::cts, Baton::discovery
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
# What the packages of others that link libbaton will depend on. (CPack's own list would offer libnrt.so.1 and the drivers too.)
file(WRITE ${CMAKE_BINARY_DIR}/debian/shlibs "libbaton 0 libbaton0 (>= ${PROJECT_VERSION})\n")
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_EXTRA ${CMAKE_BINARY_DIR}/debian/shlibs)
set(CPACK_DEBIAN_KV_PACKAGE_SHLIBDEPS ON)
file(WRITE ${CMAKE_BINARY_DIR}/debian/kv/shlibs "libbaton-kv 0 libbaton-kv0 (>= ${PROJECT_VERSION})\n")
set(CPACK_DEBIAN_KV_PACKAGE_CONTROL_EXTRA ${CMAKE_BINARY_DIR}/debian/kv/shlibs)
set(CPACK_DEBIAN_TOOLS_PACKAGE_SHLIBDEPS ON)
include(CPack)
