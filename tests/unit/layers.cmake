# The layers over the driver table: their parsers in process, each layer on the host and on both emulators.
baton_test(layers_plan SOURCES ${CMAKE_CURRENT_LIST_DIR}/layers_plan.cc LIBS baton_fault_plan LABELS unit)
set(layers_need baton-driver-fake baton-driver-host baton-driver-neuron baton-driver-cs3 nrt baton-emu-neuron baton-emu-cs3)
baton_test(layers_fault SOURCES ${CMAKE_CURRENT_LIST_DIR}/layers_fault.cc LIBS baton LABELS unit DEPENDS baton-layer-fault ${layers_need} LOCKS devshm)
baton_test(layers_stack SOURCES ${CMAKE_CURRENT_LIST_DIR}/layers_stack.cc LIBS baton nlohmann_json::nlohmann_json LABELS unit
           DEPENDS baton-layer-fault baton-layer-delay baton-layer-trace baton-layer-record ${layers_need} LOCKS devshm)
baton_test(layers_replay SOURCES ${CMAKE_CURRENT_LIST_DIR}/layers_replay.cc LIBS baton baton_program baton_test_support nlohmann_json::nlohmann_json
           LABELS unit DEPENDS devctl baton-layer-record baton-layer-fault ${layers_need} LOCKS devshm)
