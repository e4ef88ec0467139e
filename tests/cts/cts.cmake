# The conformance suites: baton_cts (a library, for whoever writes a runner), baton-cts (the runner), and a run for each subject of ours.
file(GLOB cts_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.cc)
list(FILTER cts_sources EXCLUDE REGEX "/(main|subject_file)\\.cc$")
baton_static(baton_cts SOURCES ${cts_sources} LIBS baton baton_program GTest::gtest Threads::Threads)
if(NOT BATON_SANITIZE)  # installed: a failure names the file within the project, wherever that was built
  target_compile_options(baton_cts PRIVATE -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
endif()
baton_public_headers(baton_cts ${CMAKE_CURRENT_LIST_DIR}/fixture.h ${CMAKE_CURRENT_LIST_DIR}/run.h ${CMAKE_CURRENT_LIST_DIR}/subject.h
                     ${CMAKE_CURRENT_LIST_DIR}/suite.h)

add_executable(baton-cts ${CMAKE_CURRENT_LIST_DIR}/main.cc ${CMAKE_CURRENT_LIST_DIR}/subject_file.cc)
target_link_libraries(baton-cts PRIVATE baton_cts nlohmann_json::nlohmann_json CLI11::CLI11)
add_dependencies(baton-cts product)

file(GLOB cts_subjects CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/subjects/*.json)
foreach(subject ${cts_subjects})
  get_filename_component(name ${subject} NAME_WE)
  baton_add_ctest(cts_${name} COMMAND baton-cts ${subject} LABELS cts TIMEOUT 60)
  baton_add_ctest(cts_validated_${name} COMMAND ${CMAKE_COMMAND} -E env BATON_LAYERS=validate $<TARGET_FILE:baton-cts> ${subject}
                  LABELS cts TIMEOUT 60)
  baton_add_ctest(cts_fault_${name} COMMAND baton-cts --faults ${subject} LABELS fault TIMEOUT 60)
endforeach()

# A wafer by each carrier of its link: an emu+ address alone always has the first.
foreach(carrier shm tcp)
  baton_add_ctest(cts_cs3_${carrier} COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/carrier.sh $<TARGET_FILE:baton-emu-cs3> ${carrier} $<TARGET_FILE:baton-cts>
                  LABELS cts TIMEOUT 60)
endforeach()
baton_add_ctest(cts_fault_cs3_tcp COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/carrier.sh $<TARGET_FILE:baton-emu-cs3> tcp $<TARGET_FILE:baton-cts> --faults
                LABELS fault TIMEOUT 60)

# Every ordered pair of ours; of one kind, two devices of it.
set(cts_first_host host://a)
set(cts_second_host host://b)
set(cts_first_neuron emu+neuron://0?chips=2)
set(cts_second_neuron emu+neuron://1?chips=2)
set(cts_first_cs3 emu+cs3://0)
set(cts_second_cs3 emu+cs3://1)
foreach(from host neuron cs3)
  set(cts_pairs)
  foreach(to host neuron cs3)
    list(APPEND cts_pairs --pair ${cts_first_${from}} ${cts_second_${to}})
  endforeach()
  baton_add_ctest(cts_pair_${from} COMMAND baton-cts ${cts_pairs} LABELS pair TIMEOUT 60)
endforeach()

# Memory in which a remote write is complete before it is visible: what moves between devices is fenced.
baton_add_ctest(cts_pair_fenced COMMAND baton-cts --pair emu+cs3://0 emu+neuron://0?visibility=0 --pair emu+neuron://0?visibility=0 emu+cs3://0
                                        --pair host://a emu+neuron://0?visibility=3 LABELS pair TIMEOUT 60)

baton_test(cts_runner SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/cts_runner.cc LIBS baton_test_support nlohmann_json::nlohmann_json LABELS cts
           DEPENDS baton-cts devctl)

# What no suite notices is not tested: each promise is broken on purpose.
add_library(baton-layer-wrong MODULE ${CMAKE_CURRENT_LIST_DIR}/wrong/layer.cc)
target_link_libraries(baton-layer-wrong PRIVATE baton_flags baton_layer_kit)
set_target_properties(baton-layer-wrong PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/layers)
if(NOT BATON_SANITIZE)
  baton_test(cts_caught SOURCES ${CMAKE_CURRENT_LIST_DIR}/wrong/caught_test.cc LIBS baton_test_support nlohmann_json::nlohmann_json LABELS cts
             DEPENDS baton-cts baton-layer-wrong)
endif()
