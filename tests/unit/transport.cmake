if(TARGET baton_transport)
  baton_static(transport_kv_data SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_kv_data.cc LIBS baton_transport)
  target_compile_options(transport_kv_data PRIVATE -O2)
  foreach(part kv_layout kv_plan kv_convert kv_pack kv_recode kv_tags session identity secrecy aead kv_link kv_parts kv_hold process lend seal remote_timeline cut rails hostile verbs tcp_stream)
    set(labels unit)
    if(part MATCHES "^kv_(layout|plan|convert|pack|recode)$")
      list(APPEND labels single)
    endif()
    baton_test(transport_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_${part}.cc LIBS baton_transport transport_kv_data LABELS ${labels} TIMEOUT 120 DEPENDS baton-driver-host LOCKS devshm)
    target_include_directories(transport_${part} PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  endforeach()
  baton_test(transport_fence SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_fence.cc LIBS baton_transport transport_kv_data LABELS unit TIMEOUT 120
             DEPENDS baton-driver-host baton-driver-neuron baton-emu-neuron nrt baton-driver-cs3 baton-emu-cs3 baton-layer-fault LOCKS devshm)
  target_include_directories(transport_fence PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_sources(transport_kv_plan PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/count_calls.cc) # plans allocate nothing once warm
  target_link_libraries(transport_kv_plan PRIVATE ${CMAKE_DL_LIBS})

  target_sources(transport_aead PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/count_calls.cc) # nor do chunks
  target_link_libraries(transport_aead PRIVATE ${CMAKE_DL_LIBS})

  foreach(part spill spill_crash)
    baton_test(transport_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_${part}.cc LIBS baton_transport transport_kv_data baton_test_support LABELS unit TIMEOUT 120)
    target_include_directories(transport_${part} PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  endforeach()

  # the C ABI, on the library that is installed
  baton_test(transport_c SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_c.cc ${CMAKE_CURRENT_LIST_DIR}/transport_c_roads.cc ${PROJECT_SOURCE_DIR}/tests/support/count_calls.cc LIBS baton_kv baton ${CMAKE_DL_LIBS} LABELS unit TIMEOUT 120 DEPENDS baton-driver-host)
  target_include_directories(transport_c PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  baton_test(transport_affinity SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_affinity.cc LIBS baton_transport transport_kv_data LABELS unit TIMEOUT 60)
  baton_test(transport_kv_layout_text SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_kv_layout_text.cc LIBS baton_transport LABELS unit TIMEOUT 120)

  # the other process of transport_process and transport_remote_timeline
  add_executable(transport_peer ${CMAKE_CURRENT_LIST_DIR}/transport_peer.cc)
  target_include_directories(transport_peer PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(transport_peer PRIVATE baton_flags baton_transport transport_kv_data GTest::gtest GTest::gmock)
  set_target_properties(transport_peer PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_dependencies(transport_process transport_peer)
  add_dependencies(transport_remote_timeline transport_peer)
  add_dependencies(transport_cut transport_peer)
  add_dependencies(transport_lend transport_peer)
  add_dependencies(transport_rails transport_peer)
  # the suite over fabrics, over two rails
  baton_add_ctest(transport_kv_link_rails COMMAND ${CMAKE_COMMAND} -E env BATON_TEST_FABRICS=tcp BATON_TEST_RAILS=127.0.0.1,127.0.0.2 $<TARGET_FILE:transport_kv_link> --gtest_filter=All/OnFabric.*
                  LABELS unit TIMEOUT 120 LOCKS devshm)
endif()
if(TARGET baton_discovery)
  # Most of the time of `etcd` is waiting for leases: it holds no lock, so that others run meanwhile.
  foreach(part workers etcd discovery_load)
    set(locks)
    if(part STREQUAL discovery_load)
      set(locks LOCKS devshm)
    endif()
    baton_test(transport_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_${part}.cc LIBS baton_discovery transport_kv_data baton_test_support LABELS unit TIMEOUT 300
               DEPENDS baton-driver-host ${locks})
    target_include_directories(transport_${part} PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  endforeach()
endif()
