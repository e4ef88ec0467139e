# Five words: a static library, two kinds of plug-in that the registry finds, data beside them, a test.

# baton_static(NAME SOURCES... LIBS...)
function(baton_static name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC $<BUILD_INTERFACE:baton_flags> ${A_LIBS})
  baton_precompiled(${name})
endfunction()

# baton_public_headers(TARGET HEADERS...): headers of an installed library, written as insiders write them: "hal/baton.hpp".
# They go to include/baton/; BatonInstall.cmake puts that folder on the include path of whoever links the target.
function(baton_public_headers name)
  target_sources(${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARGN})
endfunction()

# baton_driver_module(SCHEME SOURCES... LIBS...) -> lib/baton/libbaton-driver-SCHEME.so, exporting baton_driver_v1 alone
function(baton_driver_module scheme)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(baton-driver-${scheme} MODULE ${A_SOURCES})
  target_link_libraries(baton-driver-${scheme} PRIVATE baton_flags ${A_LIBS})
  baton_precompiled(baton-driver-${scheme})
  set_target_properties(baton-driver-${scheme} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${BATON_PLUGIN_DIR})
endfunction()

# baton_layer_module(NAME SOURCES... LIBS...) -> lib/baton/libbaton-layer-NAME.so, exporting baton_layer_v1 alone
function(baton_layer_module name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(baton-layer-${name} MODULE ${A_SOURCES})
  target_link_libraries(baton-layer-${name} PRIVATE baton_flags ${A_LIBS})
  set_target_properties(baton-layer-${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${BATON_PLUGIN_DIR})
endfunction()

# baton_test(NAME SOURCES... LIBS... [LABELS...] [TIMEOUT s] [DEPENDS targets...] [LOCKS names...])
# The label `single` is of one thread in the test's own process: ThreadSanitizer has nothing to find, and its tree leaves the test out. The label `release`
# is of a test that starts many whole programs: the sanitizers' trees test what is in them.
# Tests with a lock in common do not run at the same time, in whichever tree (devshm: those that use or count /dev/shm).
# A GoogleTest program registered as one ctest test; labels: the folder (unit, pair, fault, ...) and the sanitizer, if any.
# Tests find the build tree by BATON_BUILD_DIR and the source tree by BATON_SOURCE_DIR (compile definitions).
function(baton_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SOURCES;LIBS;LABELS;DEPENDS;LOCKS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE baton_flags ${A_LIBS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)  # what is tested is optimized, the test itself need not be
  target_compile_definitions(${name} PRIVATE BATON_BUILD_DIR="${CMAKE_BINARY_DIR}" BATON_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(A_DEPENDS)
    add_dependencies(${name} ${A_DEPENDS})
  endif()
  if((BATON_SANITIZE STREQUAL "thread" AND "single" IN_LIST A_LABELS) OR (BATON_SANITIZE AND "release" IN_LIST A_LABELS))
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
    return()
  endif()
  baton_add_ctest(${name} COMMAND ${name} LABELS ${A_LABELS} TIMEOUT ${A_TIMEOUT} LOCKS ${A_LOCKS})
endfunction()

# baton_add_ctest(NAME COMMAND... LABELS... TIMEOUT s): names carry the sanitizer so that several trees run under one ctest.
function(baton_add_ctest name)
  cmake_parse_arguments(A "" "TIMEOUT" "COMMAND;LABELS;LOCKS" ${ARGN})
  set(prefix "")
  set(scale 1)
  if(BATON_SANITIZE STREQUAL "address")
    set(prefix "asan.")
    list(APPEND A_LABELS asan)
    set(scale 4)
  elseif(BATON_SANITIZE STREQUAL "thread")
    set(prefix "tsan.")
    list(APPEND A_LABELS tsan)
    set(scale 8)
  elseif(BATON_SANITIZE STREQUAL "fuzz")
    set(prefix "clang.")
  endif()
  math(EXPR timeout "${A_TIMEOUT} * ${scale}")
  add_test(NAME ${prefix}${name} COMMAND ${A_COMMAND})
  set_tests_properties(${prefix}${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${timeout} RESOURCE_LOCK "${A_LOCKS}")
  set(environment "TSAN_OPTIONS=halt_on_error=1:handle_abort=1:second_deadlock_stack=1:suppressions=${CMAKE_SOURCE_DIR}/cmake/tsan.supp"
                  "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/cmake/lsan.supp" "UBSAN_OPTIONS=print_stacktrace=1" "ASAN_OPTIONS=handle_abort=1")
  if(BATON_SANITIZE STREQUAL "address")
    # hwloc's plug-ins (OpenCL, GL) leak at their unloading, where no suppression can name them any more.
    list(APPEND environment "HWLOC_PLUGINS_PATH=${CMAKE_BINARY_DIR}/none")
  endif()
  set_tests_properties(${prefix}${name} PROPERTIES ENVIRONMENT "${environment}")
endfunction()

# baton_data(TARGET FOLDER GLOB): data files, copied to FOLDER beside the plug-ins.
function(baton_data target folder)
  file(GLOB files CONFIGURE_DEPENDS ${ARGN})
  set(copies)
  foreach(file ${files})
    get_filename_component(name ${file} NAME)
    set(copy ${BATON_PLUGIN_DIR}/${folder}/${name})
    add_custom_command(OUTPUT ${copy} COMMAND ${CMAKE_COMMAND} -E copy ${file} ${copy} DEPENDS ${file} VERBATIM)
    list(APPEND copies ${copy})
  endforeach()
  add_custom_target(${target} ALL DEPENDS ${copies})
endfunction()
