if(TARGET baton_transport)
  baton_test(transport_kv_layout SOURCES ${CMAKE_CURRENT_LIST_DIR}/transport_kv_layout.cc LIBS baton_transport LABELS unit TIMEOUT 60)
endif()
