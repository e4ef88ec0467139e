# The runtime end to end: goldens on one device, then hand-overs that must equal one device bit for bit.
baton_test(generate_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_golden.cc LIBS baton_runtime LABELS pair TIMEOUT 120
           DEPENDS product)
baton_test(generate_pair_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_pair.cc LIBS baton_runtime baton_test_support LABELS pair TIMEOUT 240
           DEPENDS product)
baton_test(generate_cli_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_cli.cc LIBS baton_test_support nlohmann_json::nlohmann_json LABELS pair
           TIMEOUT 120 DEPENDS product)
