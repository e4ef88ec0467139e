# baton-bench: the table of figures and yardsticks. submit_bench, kernels_bench: micro-benchmarks under Google Benchmark.
if(BATON_BENCH)
  baton_static(baton_yardstick SOURCES ${CMAKE_CURRENT_LIST_DIR}/yardstick.cc ${CMAKE_CURRENT_LIST_DIR}/yardstick_simd.cc LIBS Threads::Threads)
  file(GLOB bench_rows CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*_rows.cc)
  add_executable(baton-bench ${CMAKE_CURRENT_LIST_DIR}/bench.cc ${CMAKE_CURRENT_LIST_DIR}/table.cc ${bench_rows}
                 ${PROJECT_SOURCE_DIR}/tests/support/count_calls.cc)
  target_link_libraries(baton-bench PRIVATE baton_flags baton baton_yardstick baton_kv_move baton_model baton_runtime baton_cs3_link CLI11::CLI11 fmt::fmt
                                            nlohmann_json::nlohmann_json)
  add_executable(submit_bench ${CMAKE_CURRENT_LIST_DIR}/submit_bench.cc)
  target_link_libraries(submit_bench PRIVATE baton_flags baton benchmark::benchmark)
  if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/kernels_bench.cc)
    add_executable(kernels_bench ${CMAKE_CURRENT_LIST_DIR}/kernels_bench.cc)
    target_link_libraries(kernels_bench PRIVATE baton_flags baton_engine benchmark::benchmark)
    set_target_properties(kernels_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  endif()
  set_target_properties(submit_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  baton_add_ctest(bench_smoke COMMAND baton-bench --quick --only submit LABELS bench TIMEOUT 120)
endif()
