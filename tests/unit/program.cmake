foreach(part build verify serialize)
  baton_test(unit_program_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/program_${part}.cc LIBS baton_program LABELS unit single)
endforeach()
