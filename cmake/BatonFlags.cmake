# Warnings, sanitizers and the interface target that every Baton target links.
add_library(baton_flags INTERFACE)
target_include_directories(baton_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_options(baton_flags INTERFACE -Wall -Wextra -Wno-missing-field-initializers -fno-math-errno -ffp-contract=off)
# g++ 12 reports std::string's operator+ (-Wrestrict) and AVX-512's undefined operands (-Wmaybe-uninitialized) falsely
# (gcc.gnu.org/PR105651, PR105593).
target_compile_options(baton_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
                       $<$<AND:$<CXX_COMPILER_ID:GNU>,$<COMPILE_LANGUAGE:CXX>>:-Wno-maybe-uninitialized>)
target_compile_definitions(baton_flags INTERFACE BATON_VERSION_STRING="${PROJECT_VERSION}")
if(BATON_SANITIZE STREQUAL "address")
  # memcpy of no bytes from or to a null pointer is not reported: C2y defines it (WG14 N3322).
  target_compile_options(baton_flags INTERFACE -fsanitize=address,undefined -fno-sanitize=nonnull-attribute -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  target_link_options(baton_flags INTERFACE -fsanitize=address,undefined)
elseif(BATON_SANITIZE STREQUAL "thread")
  target_compile_options(baton_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer -g1)
  target_link_options(baton_flags INTERFACE -fsanitize=thread)
elseif(NOT BATON_SANITIZE STREQUAL "")
  message(FATAL_ERROR "BATON_SANITIZE is '${BATON_SANITIZE}': address, thread or empty")
endif()
