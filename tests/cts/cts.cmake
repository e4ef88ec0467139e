# The conformance suites: baton_cts (a library, for whoever writes a runner), baton-cts (the runner), and a run for each subject of ours.
file(GLOB cts_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cc)
list(FILTER cts_sources EXCLUDE REGEX "/(main|subject_file)\\.cc$")
baton_static(baton_cts SOURCES ${cts_sources} LIBS baton baton_program GTest::gtest Threads::Threads)
baton_public_headers(baton_cts ${CMAKE_CURRENT_LIST_DIR}/fixture.h ${CMAKE_CURRENT_LIST_DIR}/run.h ${CMAKE_CURRENT_LIST_DIR}/subject.h
                     ${CMAKE_CURRENT_LIST_DIR}/suite.h)

add_executable(baton-cts ${CMAKE_CURRENT_LIST_DIR}/main.cc ${CMAKE_CURRENT_LIST_DIR}/subject_file.cc)
target_link_libraries(baton-cts PRIVATE baton_cts nlohmann_json::nlohmann_json CLI11::CLI11)
add_dependencies(baton-cts product)

file(GLOB cts_subjects CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/subjects/*.json)
foreach(subject ${cts_subjects})
  get_filename_component(name ${subject} NAME_WE)
  baton_add_ctest(cts_${name} COMMAND baton-cts ${subject} LABELS cts TIMEOUT 60)
endforeach()
