baton_test(unit_timing_models SOURCES ${CMAKE_CURRENT_LIST_DIR}/timing_models.cc LIBS baton_timing LABELS unit single DEPENDS baton_timing_data)
