// edge.hpp (internal): what every function of baton_kv.h does at its edge: no exception leaves, the caller's structs have the size that he knows.
//
// Owner    the caller's memory.   Threads  any; no state.   Cost  nothing on success but emptying the texts.   Errors  as given.
//
//     return edge(error, [&]() -> Status { if (!pool) return missing("pool"); ... return {}; });
#pragma once

#include "hal/baton.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>

namespace baton::kv_c {

// Copies a struct that begins with struct_size to a caller who knows so many bytes of it (0: all).
template <class T>
void copy_out(T* to, const T& from) {
  const uint32_t n = to->struct_size ? std::min<uint32_t>(to->struct_size, sizeof(T)) : sizeof(T);
  std::memcpy(static_cast<void*>(to), &from, n);
  if (n >= sizeof n) std::memcpy(static_cast<void*>(to), &n, sizeof n);
}

// A caller's options; what his version did not know is zero.
template <class T>
T copy_in(const T* from) {
  T out{};
  std::memcpy(static_cast<void*>(&out), from, from->struct_size ? std::min<uint32_t>(from->struct_size, sizeof(T)) : sizeof(T));
  return out;
}

inline int32_t fail(baton_error* to, const Error& from) noexcept {
  if (to) copy_out<baton_error>(to, from);
  return from.code;
}

inline int32_t succeed(baton_error* to) noexcept {
  if (!to) return BATON_OK;
  const uint32_t n = to->struct_size ? to->struct_size : uint32_t(sizeof *to);
  to->code = BATON_OK; // the texts are emptied, not the whole zeroed: layers are pushed through here
  if (n > offsetof(baton_error, device)) to->device[0] = 0;
  if (n > offsetof(baton_error, hop)) to->hop[0] = 0;
  if (n > offsetof(baton_error, what)) to->what[0] = 0;
  if (n > offsetof(baton_error, next)) to->next[0] = 0;
  return BATON_OK;
}

// Runs `body`, which returns a Status.
template <class F>
int32_t edge(baton_error* e, F body) noexcept {
  try {
    const Status s = body();
    return s.ok() ? succeed(e) : fail(e, s.error());
  } catch (const std::bad_alloc&) {
    return fail(e, Error(BATON_CAPACITY, "out of host memory", "free some, or give fewer blocks at once"));
  } catch (const std::exception& x) {
    return fail(e, Error(BATON_INTERNAL, x.what(), "report this as a bug in Baton"));
  }
}

// The same for functions that report nothing: give-backs, and polls.
template <class R, class F>
R quietly(R otherwise, F body) noexcept {
  try {
    return body();
  } catch (const std::exception&) {
    return otherwise;
  }
}

inline Error missing(const char* what) { return Error(BATON_INVALID_ARGUMENT, std::string(what) + " is NULL", "pass one"); }
inline std::string text(const char* s) { return s ? s : ""; }
template <size_t N>
void put(char (&to)[N], std::string_view from) {
  Error::put(to, from);
}

}  // namespace baton::kv_c
