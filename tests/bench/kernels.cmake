# kernels_bench measures its yardsticks in the same run.
if(TARGET kernels_bench AND TARGET baton_yardstick)
  target_link_libraries(kernels_bench PRIVATE baton_yardstick)
endif()
