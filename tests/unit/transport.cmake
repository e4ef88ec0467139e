if(TARGET baton_transport)
  foreach(part kv_layout session kv_link process remote_timeline)
    baton_test(transport_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_${part}.cc LIBS baton_transport LABELS unit TIMEOUT 120 DEPENDS baton-driver-host LOCKS devshm)
    target_include_directories(transport_${part} PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  endforeach()

  # the other process of transport_process and transport_remote_timeline
  add_executable(transport_peer ${CMAKE_CURRENT_LIST_DIR}/transport_peer.cc)
  target_include_directories(transport_peer PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(transport_peer PRIVATE baton_flags baton_transport GTest::gtest GTest::gmock)
  set_target_properties(transport_peer PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_dependencies(transport_process transport_peer)
  add_dependencies(transport_remote_timeline transport_peer)
endif()
