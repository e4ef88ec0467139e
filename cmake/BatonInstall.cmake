# What `cmake --install` and CPack take out of the build tree, in four components: runtime, kv, dev, tools.
#
#   bin/                      tools                                 (tools)
#   lib/libbaton.so.0*        the C ABI                             (runtime)
#   lib/libbaton-kv.so.0*     the C ABI of the transport            (kv)
#   lib/baton/                drivers, layers, emulators, models of time (runtime)
#   lib/*.a, cmake/, pkgconfig/, include/baton/                     (dev)
#   share/man/man1            manual pages, from prose and --help   (tools)
#   share/baton/models, cts   the demo model, conformance subjects  (tools)
#   share/baton/schemas       JSON schemas of what devctl prints    (tools)
#   share/baton/adapters      other people's KV interfaces over baton_kv.h (dev)
#   share/baton/examples      programs of an outside user, and the driver template (dev)
#
# libbaton is shared: its ABI is baton.h, versioned by symbol map and SONAME. program, transport, engine and cts are C++ with std:: types
# in their interfaces, for which we promise no ABI: they are archives, one copy inside of whoever links them, and libbaton.so.0 below is the
# only state that a process shares. Everything finds its neighbours from where it lies, so the installed tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(include_dir ${CMAKE_INSTALL_INCLUDEDIR}/baton)
set(plugin_dir ${CMAKE_INSTALL_LIBDIR}/baton)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Baton)
set(data_dir ${CMAKE_INSTALL_DATADIR}/baton)

# ---- libraries ----
# One export a set of dependencies: who uses the C ABI alone need not have libfabric.
function(install_library target export)
  string(REGEX REPLACE "^baton_" "" name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(${target} INTERFACE cxx_std_20)  # of C++ users; C has no part in it
  target_include_directories(${target} INTERFACE $<INSTALL_INTERFACE:${include_dir}>)
  set(component ${ARGN}) # of a shared library; "": runtime
  if(NOT component)
    set(component runtime)
  endif()
  install(TARGETS ${target} EXPORT ${export}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${component} NAMELINK_COMPONENT dev
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
    FILE_SET HEADERS DESTINATION ${include_dir} COMPONENT dev)
endfunction()
install_library(baton BatonTargets)
install_library(baton_program BatonProgramTargets)
install_library(baton_program_json BatonTargets)
install_library(baton_engine BatonProgramTargets)
install_library(baton_cs3_link BatonPlacementTargets)
install_library(baton_placement BatonPlacementTargets)
install_library(baton_transport BatonTransportTargets)
install_library(baton_discovery BatonDiscoveryTargets)
install_library(baton_kv BatonKvTargets kv)
set(exports BatonTargets BatonProgramTargets BatonPlacementTargets BatonTransportTargets BatonDiscoveryTargets BatonKvTargets)
if(TARGET baton_cts)
  install_library(baton_cts BatonCtsTargets)
  list(APPEND exports BatonCtsTargets)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/tests/cts/subjects DESTINATION ${data_dir}/cts COMPONENT tools)
endif()
foreach(export ${exports})
  install(EXPORT ${export} NAMESPACE Baton:: DESTINATION ${package_dir} COMPONENT dev)
endforeach()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/BatonConfig.cmake.in ${CMAKE_BINARY_DIR}/BatonConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/BatonConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/BatonConfig.cmake ${CMAKE_BINARY_DIR}/BatonConfigVersion.cmake DESTINATION ${package_dir} COMPONENT dev)

file(RELATIVE_PATH up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)  # from the .pc file to the prefix
string(REGEX REPLACE "/$" "" up ${up})
foreach(pc baton baton-kv baton-program baton-transport baton-discovery)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${pc}.pc.in ${CMAKE_BINARY_DIR}/${pc}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${pc}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)
endforeach()

# ---- drivers, layers, emulators, models of time ----
foreach(module baton-driver-host baton-driver-neuron baton-driver-cs3 baton-emu-cs3 baton-emu-neuron
               baton-layer-fault baton-layer-delay baton-layer-trace baton-layer-record)
  set_target_properties(${module} PROPERTIES INSTALL_RPATH "$ORIGIN/..")
  install(TARGETS ${module} LIBRARY DESTINATION ${plugin_dir} COMPONENT runtime RUNTIME DESTINATION ${plugin_dir} COMPONENT runtime)
endforeach()
install(TARGETS nrt LIBRARY DESTINATION ${plugin_dir}/emu COMPONENT runtime NAMELINK_SKIP)
install(DIRECTORY ${BATON_PLUGIN_DIR}/timing ${BATON_PLUGIN_DIR}/machines DESTINATION ${plugin_dir} COMPONENT runtime)
install(FILES ${BATON_PLUGIN_DIR}/links.json ${BATON_PLUGIN_DIR}/wafers.json DESTINATION ${plugin_dir} COMPONENT runtime)

# ---- Python: nothing to build; finds libbaton from where it lies ----
install(DIRECTORY ${PROJECT_SOURCE_DIR}/python/baton DESTINATION ${CMAKE_INSTALL_LIBDIR}/python3/dist-packages COMPONENT runtime
        FILES_MATCHING PATTERN "*.py")

# ---- tools ----
file(RELATIVE_PATH bin_to_lib /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
# install_manual(TARGET): its manual page, from tools/man and its own --help. Not under a sanitizer: nobody reads it there.
set(manuals)
function(install_manual target)
  get_target_property(name ${target} OUTPUT_NAME)
  if(NOT name)
    set(name ${target})
  endif()
  set(prose ${CMAKE_SOURCE_DIR}/tools/man/${name}.1.in)
  set(page ${CMAKE_BINARY_DIR}/share/man/man1/${name}.1)
  add_custom_command(OUTPUT ${page}
    COMMAND awk -v program=$<TARGET_FILE:${target}> -f ${CMAKE_SOURCE_DIR}/tools/man/manual.awk ${prose} > ${page}.new
    COMMAND ${CMAKE_COMMAND} -E rename ${page}.new ${page}
    DEPENDS ${target} ${prose} ${CMAKE_SOURCE_DIR}/tools/man/manual.awk VERBATIM)
  install(FILES ${page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT tools)
  set(manuals ${manuals} ${page} PARENT_SCOPE)
endfunction()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/share/man/man1)

set(tools)
foreach(tool baton_cli devctl baton-bench baton-cts)
  if(TARGET ${tool})
    set_target_properties(${tool} PROPERTIES INSTALL_RPATH "$ORIGIN/${bin_to_lib}")
    install(TARGETS ${tool} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tools)
    list(APPEND tools ${tool})
    if(NOT BATON_SANITIZE)
      install_manual(${tool})
    endif()
  endif()
endforeach()
# devctl's verbs have a page each, from the same description as its --help and completion.
if(TARGET devctl AND NOT BATON_SANITIZE)
  set(verbs ${CMAKE_BINARY_DIR}/share/man/verbs)
  add_custom_command(OUTPUT ${verbs}/devctl-list.1
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${verbs}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${verbs}
    COMMAND devctl completion man ${verbs} > ${CMAKE_BINARY_DIR}/share/man/verbs.txt
    DEPENDS devctl VERBATIM)
  install(DIRECTORY ${verbs}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT tools FILES_MATCHING PATTERN "*.1")
  list(APPEND manuals ${verbs}/devctl-list.1)
endif()
# The wafer daemon is a plug-in that people also start by hand.
file(CREATE_LINK ${bin_to_lib}/baton/baton-emu-cs3 ${CMAKE_BINARY_DIR}/baton-emu-cs3.link SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/baton-emu-cs3.link DESTINATION ${CMAKE_INSTALL_BINDIR} RENAME baton-emu-cs3 COMPONENT tools)
if(NOT BATON_SANITIZE)
  install_manual(baton-emu-cs3)
endif()
install(DIRECTORY ${CMAKE_SOURCE_DIR}/tools/devctl/schemas DESTINATION ${data_dir} COMPONENT tools)  # of what devctl prints with -o json
install(DIRECTORY ${CMAKE_SOURCE_DIR}/models DESTINATION ${data_dir} COMPONENT tools PATTERN golden EXCLUDE)
# To be copied to a CS-3's host: nothing else of Baton's is needed there.
install(DIRECTORY ${CMAKE_SOURCE_DIR}/drivers/cs3/bridge DESTINATION ${data_dir} COMPONENT tools PATTERN __pycache__ EXCLUDE)

# ---- examples ----
install(DIRECTORY ${CMAKE_SOURCE_DIR}/transport/adapters DESTINATION ${data_dir} COMPONENT dev PATTERN __pycache__ EXCLUDE)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/tests/consumer/examples DESTINATION ${data_dir} COMPONENT dev)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/drivers/host/ DESTINATION ${data_dir}/examples/host-driver COMPONENT dev PATTERN CMakeLists.txt EXCLUDE)

add_custom_target(manual ALL DEPENDS ${manuals})
add_custom_target(installed)  # everything that is installed
add_dependencies(installed product manual baton_kv ${tools})
