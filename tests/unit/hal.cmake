# The core and the host driver.
add_library(baton-driver-fake MODULE ${CMAKE_CURRENT_LIST_DIR}/hal_fake_driver.cc)
target_link_libraries(baton-driver-fake PRIVATE baton_flags baton)
set_target_properties(baton-driver-fake PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/drivers)
foreach(part timeline queue buffer copy registry reset table launch hygiene threads)
  baton_test(hal_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/hal_${part}.cc LIBS baton baton_program LABELS unit
             DEPENDS baton-driver-fake baton-driver-host)
endforeach()
# Replaces malloc and the locks of its program, to count them.
baton_test(hal_hot_path SOURCES ${CMAKE_CURRENT_LIST_DIR}/hal_hot_path.cc ${PROJECT_SOURCE_DIR}/tests/support/count_calls.cc
           LIBS baton baton_program LABELS unit DEPENDS baton-driver-fake baton-driver-host)

# The layer "validate": misuse, and what it says.
file(GLOB validate_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/validate_*.cc)
baton_test(validate SOURCES ${validate_sources} LIBS baton baton_program LABELS unit DEPENDS baton-driver-fake baton-driver-host)
