# The fabrics over RDMA, in a virtual machine with a soft-RoCE device. Skipped, with the reason, where there is no QEMU or no kernel for it.
# In the release tree alone: sanitizers under software emulation take minutes.
if(TARGET transport_verbs AND BATON_SANITIZE STREQUAL "")
  set(vm_files "")
  foreach(program transport_kv_link transport_kv_parts transport_kv_recode transport_seal transport_rails transport_process transport_peer transport_verbs baton-driver-host)
    list(APPEND vm_files $<TARGET_FILE:${program}>)
  endforeach()
  foreach(fabric verbs ofi-verbs)
    string(REPLACE "-" "_" name ${fabric})
    baton_add_ctest(vm_${name} LABELS vm TIMEOUT 600 LOCKS vm
      COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/vm.py --kernel ${CMAKE_SOURCE_DIR}/build/vm/kernel --out ${CMAKE_BINARY_DIR}/vm/${name} --timeout 580
              --env BATON_TEST_FABRICS=${fabric} TESTS=${CMAKE_BINARY_DIR}/tests --file ${vm_files} -- ${CMAKE_CURRENT_LIST_DIR}/fabrics.sh)
    set_tests_properties(vm_${name} PROPERTIES SKIP_RETURN_CODE 77)
  endforeach()

  # Loss and delay: this machine's kernel may have no netem, Debian's has.
  find_program(BATON_IP ip PATHS /usr/sbin /sbin)
  find_program(BATON_TC tc PATHS /usr/sbin /sbin)
  find_program(BATON_NSENTER nsenter)
  find_program(BATON_DASH dash)
  if(BATON_IP AND BATON_TC AND BATON_NSENTER AND BATON_DASH)
    baton_add_ctest(vm_netem LABELS vm TIMEOUT 600 LOCKS vm
      COMMAND python3 ${CMAKE_CURRENT_LIST_DIR}/vm.py --kernel ${CMAKE_SOURCE_DIR}/build/vm/kernel --out ${CMAKE_BINARY_DIR}/vm/netem --timeout 580 --env TESTS=${CMAKE_BINARY_DIR}/tests DASH=${BATON_DASH}
              --file $<TARGET_FILE:transport_cut> $<TARGET_FILE:transport_peer> $<TARGET_FILE:baton-driver-host> ${BATON_IP} ${BATON_TC} ${BATON_NSENTER} ${BATON_DASH} -- ${CMAKE_CURRENT_LIST_DIR}/netem.sh)
    set_tests_properties(vm_netem PROPERTIES SKIP_RETURN_CODE 77)
  endif()
endif()
