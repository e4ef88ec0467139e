# The installed tree and the Debian packages, as a stranger meets them. In the tree that people install, not under a sanitizer.
if(NOT BATON_SANITIZE)
  foreach(part installed packages)
    baton_add_ctest(install_${part} COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/run.sh ${part} ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} LABELS install TIMEOUT 300)
  endforeach()
endif()
