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
elseif(BATON_SANITIZE STREQUAL "fuzz")
  # clang: coverage for libFuzzer (whose main() the targets alone link, tests/fuzz), ASan, and of UBSan what costs little to compile; the
  # preset asan has all of it and replays what was found.
  set(fuzz_sanitizers -fsanitize=address,signed-integer-overflow,shift,integer-divide-by-zero,float-cast-overflow,bounds,bool,enum,return,unreachable
                      -fno-sanitize-recover=all)
  target_compile_options(baton_flags INTERFACE -fsanitize=fuzzer-no-link -fsanitize-coverage-ignorelist=${CMAKE_SOURCE_DIR}/cmake/fuzz.ignore
                         ${fuzz_sanitizers} -fno-omit-frame-pointer -g1)
  target_link_options(baton_flags INTERFACE ${fuzz_sanitizers})
  # Headers are precompiled: parsing them would be most of the build.
  target_compile_definitions(baton_flags INTERFACE FMT_SHARED)
  file(WRITE ${CMAKE_BINARY_DIR}/pch.cc "")
  add_library(baton_pch OBJECT ${CMAKE_BINARY_DIR}/pch.cc)
  target_link_libraries(baton_pch PRIVATE baton_flags)
  target_compile_options(baton_pch PRIVATE -Xclang -fno-pch-timestamp)
  target_precompile_headers(baton_pch PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/pch.h)
elseif(NOT BATON_SANITIZE STREQUAL "")
  message(FATAL_ERROR "BATON_SANITIZE is '${BATON_SANITIZE}': address, thread, fuzz or empty")
endif()

# Lets a target use the precompiled headers, in the preset that has them.
function(baton_precompiled target)
  if(TARGET baton_pch)
    target_precompile_headers(${target} REUSE_FROM baton_pch)
  endif()
endfunction()
