foreach(part matmul rows exp attention tile pool)
  baton_test(unit_kernels_${part} SOURCES ${CMAKE_CURRENT_LIST_DIR}/kernels_${part}.cc LIBS baton_engine LABELS unit)
endforeach()
