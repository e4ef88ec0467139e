# The wafer link by its parts, the daemon's SRAM, and the daemon as a child process below the driver and the core.
baton_test(cs3_link SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_link.cc ${CMAKE_SOURCE_DIR}/drivers/cs3/options.cc LIBS baton_cs3_link baton
           Threads::Threads LABELS unit)
baton_test(cs3_wafer SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_wafer.cc LIBS baton_emu_cs3_parts LABELS unit)
foreach(part driver daemon hostile symbols faults)
  baton_test(cs3_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_${part}.cc LIBS baton_cs3_link baton_program baton Threads::Threads ${CMAKE_DL_LIBS} LABELS unit
             DEPENDS baton-emu-cs3 baton-driver-cs3 baton-driver-host)
endforeach()
baton_test(cs3_placement SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_placement.cc LIBS baton_placement baton_model LABELS unit)
baton_test(cs3_calibration SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_calibration.cc LIBS baton_emu_cs3_parts LABELS unit DEPENDS baton_timing_data)
baton_test(cs3_stages SOURCES ${CMAKE_CURRENT_LIST_DIR}/cs3_stages.cc ${CMAKE_SOURCE_DIR}/drivers/cs3/stages.cc LIBS baton_emu_cs3_parts LABELS unit)
