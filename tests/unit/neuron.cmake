# The emulated Neuron runtime by its ABI alone, and the driver on top of it through the core.
baton_test(neuron_abi SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_abi.cc ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_models.cc
  LIBS baton_neff baton_program baton_test_support Threads::Threads ${CMAKE_DL_LIBS} LABELS unit DEPENDS nrt)
baton_test(neuron_parts SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_parts.cc ${CMAKE_SOURCE_DIR}/drivers/neuron/options.cc
  ${CMAKE_SOURCE_DIR}/drivers/neuron/quirks.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/hbm.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/mirror.cc
  ${CMAKE_SOURCE_DIR}/emulators/neuron/strict.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/fault.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/status.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/neff_reader.cc
  ${CMAKE_SOURCE_DIR}/emulators/neuron/collective.cc
  LIBS baton_neff baton_engine baton_test_support fmt::fmt nlohmann_json::nlohmann_json PkgConfig::LIBCRYPTO Threads::Threads LABELS unit DEPENDS baton-emu-neuron)
baton_test(neuron_driver SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_driver.cc ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_models.cc
  LIBS baton baton_program baton_test_support Threads::Threads LABELS unit DEPENDS nrt baton-emu-neuron baton-driver-neuron)
baton_test(neuron_artifacts SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_artifacts.cc ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_models.cc
  LIBS baton baton_neff baton_program baton_test_support nlohmann_json::nlohmann_json Threads::Threads LABELS unit
  DEPENDS nrt baton-emu-neuron baton-driver-neuron baton-emu-cs3 baton-driver-cs3 devctl baton_cli)
foreach(part shared faults consumers)  # processes that share a machine; what goes wrong on purpose; as other people's software calls it
  baton_test(neuron_${part} SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_${part}.cc ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_models.cc
    ${CMAKE_SOURCE_DIR}/emulators/neuron/machine_page.cc
    LIBS baton_neff baton_program baton_test_support Threads::Threads ${CMAKE_DL_LIBS} LABELS unit DEPENDS nrt LOCKS devshm TIMEOUT 300)
endforeach()
baton_test(neuron_machines SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/unit/neuron_machines.cc ${CMAKE_SOURCE_DIR}/drivers/neuron/options.cc
  ${CMAKE_SOURCE_DIR}/drivers/neuron/pci.cc ${CMAKE_SOURCE_DIR}/drivers/neuron/quirks.cc ${CMAKE_SOURCE_DIR}/drivers/neuron/sysfs.cc
  LIBS baton baton_neuron_emu_options baton_test_support PkgConfig::HWLOC ${CMAKE_DL_LIBS} LABELS unit DEPENDS nrt baton-emu-neuron baton-driver-neuron)
