# The documents: their code is compiled and run, the reference has no warning, hal/HOST_SURFACE.md is complete.
set(docs_inc ${CMAKE_CURRENT_BINARY_DIR}/docs)
function(docs_code from to)  # docs_code(hal/baton.h baton_h.inc [-v fence=cpp]): its code, for a test to include
  add_custom_command(OUTPUT ${docs_inc}/${to}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${docs_inc}
    COMMAND awk ${ARGN} -f ${CMAKE_SOURCE_DIR}/tests/docs/examples.awk ${CMAKE_SOURCE_DIR}/${from} > ${docs_inc}/${to}
    DEPENDS ${CMAKE_SOURCE_DIR}/${from} ${CMAKE_SOURCE_DIR}/tests/docs/examples.awk COMMENT "code of ${from}" VERBATIM)
endfunction()
docs_code(hal/baton.h baton_h.inc)
docs_code(hal/baton.hpp baton_hpp.inc)
docs_code(hal/program/program.hpp program_hpp.inc)
docs_code(hal/program/json.h json_h.inc)
docs_code(transport/baton_kv.h baton_kv_h.inc)
docs_code(hal/GUIDE.md GUIDE.inc -v fence=cpp)
docs_code(README.md README.inc -v fence=cpp)
add_custom_target(docs_code DEPENDS ${docs_inc}/baton_h.inc ${docs_inc}/baton_hpp.inc ${docs_inc}/json_h.inc ${docs_inc}/baton_kv_h.inc ${docs_inc}/program_hpp.inc ${docs_inc}/GUIDE.inc
                  ${docs_inc}/README.inc)

# What a document says is the same in every tree: once is enough.
if(BATON_SANITIZE STREQUAL "")
  add_library(docs_header_examples OBJECT ${CMAKE_CURRENT_LIST_DIR}/header_examples.c ${CMAKE_CURRENT_LIST_DIR}/header_examples.cc)
  target_link_libraries(docs_header_examples PRIVATE baton_flags)
  target_compile_definitions(docs_header_examples PRIVATE _GNU_SOURCE)
  target_include_directories(docs_header_examples PRIVATE ${docs_inc})
  add_dependencies(docs_header_examples docs_code)
  baton_test(docs_guide SOURCES ${CMAKE_CURRENT_LIST_DIR}/guide.cc LIBS baton baton_program LABELS docs DEPENDS docs_code docs_header_examples
             baton-driver-host)
  target_include_directories(docs_guide PRIVATE ${docs_inc})
  baton_add_ctest(docs_reference COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/reference_test.sh ${CMAKE_SOURCE_DIR} ${docs_inc}/reference LABELS docs TIMEOUT 120)
  set_tests_properties(docs_reference PROPERTIES SKIP_RETURN_CODE 77)
  baton_add_ctest(docs_surface COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/surface_test.sh ${CMAKE_SOURCE_DIR} LABELS docs TIMEOUT 60)
  baton_test(docs_surface_live SOURCES ${CMAKE_CURRENT_LIST_DIR}/surface_live.cc LIBS baton LABELS docs
             DEPENDS baton-driver-host baton-driver-cs3 baton-emu-cs3)
endif()
