# python/baton with the system's Python, which is the one that python3-numpy belongs to. One tree: Python is not built with a sanitizer.
if(BATON_SANITIZE STREQUAL "")
  find_program(BATON_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
  if(NOT BATON_PYTHON)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    set(BATON_PYTHON ${Python3_EXECUTABLE})
  endif()
  baton_add_ctest(python COMMAND ${CMAKE_COMMAND} -E env BATON_LIBRARY=$<TARGET_FILE:baton> PYTHONDONTWRITEBYTECODE=1 ${BATON_PYTHON}
                  ${CMAKE_CURRENT_LIST_DIR}/baton_test.py ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR} LABELS python TIMEOUT 120)
  baton_add_ctest(python_kv COMMAND ${CMAKE_COMMAND} -E env BATON_LIBRARY=$<TARGET_FILE:baton> PYTHONDONTWRITEBYTECODE=1 ${BATON_PYTHON}
                  ${CMAKE_CURRENT_LIST_DIR}/kv_test.py ${CMAKE_SOURCE_DIR} LABELS python TIMEOUT 120 LOCKS devshm)
  baton_add_ctest(python_vllm COMMAND ${CMAKE_COMMAND} -E env BATON_LIBRARY=$<TARGET_FILE:baton> PYTHONDONTWRITEBYTECODE=1 ${BATON_PYTHON}
                  ${CMAKE_CURRENT_LIST_DIR}/vllm/adapter_test.py ${CMAKE_SOURCE_DIR} LABELS python TIMEOUT 300 LOCKS devshm)
  baton_add_ctest(python_bridge COMMAND ${CMAKE_COMMAND} -E env BATON_LIBRARY=$<TARGET_FILE:baton> PYTHONDONTWRITEBYTECODE=1 ${BATON_PYTHON}
                  ${CMAKE_CURRENT_LIST_DIR}/cs3/bridge_test.py ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR} LABELS python TIMEOUT 120 LOCKS devshm)
  set_tests_properties(python python_kv python_bridge python_vllm PROPERTIES SKIP_RETURN_CODE 77)
endif()
