# The runtime end to end: goldens on one device, then hand-overs that must equal one device bit for bit.
set(generate_needs baton_cli baton-driver-host baton-driver-neuron baton-driver-cs3 nrt baton-emu-neuron baton-emu-cs3)
baton_test(generate_golden_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_golden.cc LIBS baton_runtime LABELS pair TIMEOUT 120
           DEPENDS ${generate_needs})
baton_test(generate_pair_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_pair.cc LIBS baton_runtime baton_test_support LABELS pair TIMEOUT 240
           DEPENDS ${generate_needs} LOCKS devshm)
# The same hand-overs, over every fabric and between processes, with validation: no misuse, or the process aborts.
baton_add_ctest(generate_pair_validated COMMAND ${CMAKE_COMMAND} -E env BATON_LAYERS=validate=abort $<TARGET_FILE:generate_pair_test> LABELS pair
                TIMEOUT 240 LOCKS devshm)
baton_test(generate_chips_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_chips.cc LIBS baton_runtime LABELS pair TIMEOUT 240 DEPENDS ${generate_needs})
baton_test(generate_cli_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_cli.cc LIBS baton_test_support nlohmann_json::nlohmann_json LABELS pair
           TIMEOUT 120 DEPENDS ${generate_needs} LOCKS devshm)
baton_test(generate_identity_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_identity.cc LIBS baton_test_support nlohmann_json::nlohmann_json LABELS pair
           TIMEOUT 240 DEPENDS baton_cli devctl baton-driver-host LOCKS devshm)
baton_test(generate_wafers_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_wafers.cc LIBS baton_runtime baton_test_support LABELS pair TIMEOUT 240
           DEPENDS ${generate_needs})
baton_test(generate_spill_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/generate_spill.cc LIBS baton_runtime baton_test_support LABELS pair TIMEOUT 240
           DEPENDS ${generate_needs})
