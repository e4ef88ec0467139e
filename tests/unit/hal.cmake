# The core and the host driver.
add_library(baton-driver-fake MODULE ${CMAKE_CURRENT_LIST_DIR}/hal_fake_driver.cc)
target_link_libraries(baton-driver-fake PRIVATE baton_flags baton)
set_target_properties(baton-driver-fake PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/drivers)
foreach(part timeline queue buffer copy registry reset table launch hygiene)
  baton_test(hal_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/hal_${part}.cc LIBS baton baton_program LABELS unit
             DEPENDS baton-driver-fake baton-driver-host)
endforeach()

# baton.h from C11, nothing else.
add_executable(hal_c_abi ${CMAKE_CURRENT_LIST_DIR}/hal_c_abi.c)
target_link_libraries(hal_c_abi PRIVATE baton_flags baton)
target_compile_options(hal_c_abi PRIVATE -std=c11 -pedantic -Werror)
target_compile_definitions(hal_c_abi PRIVATE BATON_DRIVERS="${BATON_PLUGIN_DIR}")
set_target_properties(hal_c_abi PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
add_dependencies(hal_c_abi baton-driver-host)
baton_add_ctest(hal_c_abi COMMAND hal_c_abi LABELS unit TIMEOUT 60)
