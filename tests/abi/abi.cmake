# The ABI: the recorded table, a driver and a caller frozen at version 1, driver tables that lack slots.
set(abi ${CMAKE_CURRENT_LIST_DIR})
set(abi_out ${CMAKE_BINARY_DIR}/tests/abi)
foreach(driver frozen1 short)
  add_library(baton-driver-${driver} MODULE ${abi}/$<IF:$<STREQUAL:${driver},short>,short_driver.c,v1/driver.c>)
  target_link_libraries(baton-driver-${driver} PRIVATE baton_flags)
  set_target_properties(baton-driver-${driver} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${abi_out})
endforeach()

# The frozen caller, and the same source against today's header: C11 and nothing else, as an old program is compiled anew.
foreach(caller abi_v1_caller abi_v1_source)
  add_executable(${caller} ${abi}/v1/caller.c)
  target_link_libraries(${caller} PRIVATE baton_flags baton)
  target_compile_options(${caller} PRIVATE -pedantic -Werror)
  set_target_properties(${caller} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_dependencies(${caller} baton-driver-frozen1 baton-driver-host)
  baton_add_ctest(${caller} COMMAND ${caller} ${abi_out}:${BATON_PLUGIN_DIR} LABELS abi TIMEOUT 60)
endforeach()
target_compile_options(abi_v1_source PRIVATE -include ${CMAKE_SOURCE_DIR}/hal/baton.h -DBATON_V1_H)

baton_test(abi_tables SOURCES ${abi}/tables.cc LIBS baton LABELS abi 
           DEPENDS baton-driver-frozen1 baton-driver-short baton-driver-fake baton-driver-host)

# libnrt.so.1: its symbols, and a program in C that is linked with it.
add_executable(abi_nrt_neff ${abi}/nrt/make_neff.cc ${CMAKE_SOURCE_DIR}/emulators/neuron/neff_reader.cc)
target_link_libraries(abi_nrt_neff PRIVATE baton_flags baton_neff baton_engine nlohmann_json::nlohmann_json PkgConfig::LIBCRYPTO)
add_executable(abi_nrt_client ${abi}/nrt/client.c)
target_link_libraries(abi_nrt_client PRIVATE baton_flags nrt)
target_compile_options(abi_nrt_client PRIVATE -pedantic -Werror)
set_target_properties(abi_nrt_client abi_nrt_neff PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests C_EXTENSIONS OFF)
baton_add_ctest(abi_nrt_client COMMAND sh ${abi}/nrt/run.sh $<TARGET_FILE:abi_nrt_neff> $<TARGET_FILE:abi_nrt_client> ${abi_out}/double.neff
                LABELS abi TIMEOUT 60)

if(NOT BATON_SANITIZE)  # the header and the exported names are the same in every tree
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  baton_add_ctest(abi_table COMMAND Python3::Interpreter ${abi}/abi_test.py ${CMAKE_SOURCE_DIR} $<TARGET_FILE:baton>
                  $<TARGET_FILE:abi_v1_caller> ${CMAKE_C_COMPILER} LABELS abi TIMEOUT 60)
  baton_add_ctest(abi_table_kv COMMAND Python3::Interpreter ${abi}/abi.py check --header ${CMAKE_SOURCE_DIR}/transport/baton_kv.h --library $<TARGET_FILE:baton_kv>
                  --table ${abi}/kv1.table --cc ${CMAKE_C_COMPILER} LABELS abi TIMEOUT 60)
  baton_add_ctest(abi_table_nrt COMMAND Python3::Interpreter ${abi}/nrt_table.py ${abi}/nrt.table $<TARGET_FILE:nrt>
                  ${CMAKE_SOURCE_DIR}/drivers/neuron/nrt_abi.hpp LABELS abi TIMEOUT 60)
endif()

# baton_kv.h: a decode side and a prefill side in C11, two processes.
add_executable(abi_kv_two_processes ${abi}/kv/two_processes.c)
target_link_libraries(abi_kv_two_processes PRIVATE baton_flags baton_kv)
target_compile_options(abi_kv_two_processes PRIVATE -pedantic -Werror)
set_target_properties(abi_kv_two_processes PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests C_EXTENSIONS OFF)
baton_add_ctest(abi_kv_two_processes COMMAND abi_kv_two_processes LABELS abi TIMEOUT 120 LOCKS devshm)
