# Real processes, really killed.
baton_test(kill_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/kill_test.cc LIBS baton_test_support LABELS fault TIMEOUT 240 DEPENDS product LOCKS devshm)
baton_test(bad_input_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/bad_input_test.cc LIBS baton_test_support nlohmann_json::nlohmann_json
           LABELS fault TIMEOUT 180 DEPENDS product LOCKS devshm)
baton_test(layer_kill_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/layer_kill_test.cc LIBS baton_test_support LABELS fault DEPENDS baton-cts LOCKS devshm)
if(TARGET baton_transport)
  foreach(part kill soak)
    baton_test(kv_${part}_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/kv_${part}_test.cc LIBS baton_transport transport_kv_data LABELS fault TIMEOUT 120
               DEPENDS baton-driver-host transport_peer LOCKS devshm)
    target_include_directories(kv_${part}_test PRIVATE ${PROJECT_SOURCE_DIR}/tests/unit)
  endforeach()
endif()
baton_test(decode_soak_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/decode_soak_test.cc LIBS baton_runtime baton_test_support LABELS fault TIMEOUT 300
           DEPENDS product LOCKS devshm)
