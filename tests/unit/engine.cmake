foreach(part ops equal run sampling collective)
  baton_test(unit_engine_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/engine_${part}.cc LIBS baton_engine LABELS unit)
endforeach()
