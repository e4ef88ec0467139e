#include "hal/core/error.h"

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>

namespace baton::core {
namespace {

template <size_t N>
void put(char (&to)[N], const char* from) {
  std::snprintf(to, N, "%s", from ? from : "");
}

}  // namespace

baton_error make_error(int32_t code, const char* device, const char* next, const char* what, ...) {
  baton_error e = blank_error();
  e.code = code;
  put(e.device, device);
  put(e.next, next);
  va_list args;
  va_start(args, what);
  std::vsnprintf(e.what, sizeof e.what, what, args);
  va_end(args);
  return e;
}

void copy_out(void* to, uint32_t caller_size, const void* from, uint32_t size) {
  uint32_t n = caller_size ? std::min(caller_size, size) : size;
  std::memcpy(to, from, n);
  if (n >= sizeof(uint32_t)) std::memcpy(to, &n, sizeof n);  // struct_size is the first field of each: what was filled
}

int32_t fail(baton_error* to, const baton_error& from) {
  if (to && to != &from) copy_out(to, to->struct_size, &from, sizeof from);
  return from.code;
}

int32_t ok(baton_error* to) {
  if (!to) return BATON_OK;
  // The texts are emptied, not the whole struct zeroed: success is the hot path.
  to->code = BATON_OK;
  uint32_t n = to->struct_size ? to->struct_size : sizeof(baton_error);
  if (n >= offsetof(baton_error, device) + 1) to->device[0] = 0;
  if (n >= offsetof(baton_error, hop) + 1) to->hop[0] = 0;
  if (n >= offsetof(baton_error, what) + 1) to->what[0] = 0;
  if (n >= offsetof(baton_error, next) + 1) to->next[0] = 0;
  return BATON_OK;
}

baton_error blank_error() {
  baton_error e{};
  e.struct_size = sizeof e;
  return e;
}

void complete_error(baton_error& e, int32_t code, const char* device, uint64_t epoch, const char* call) {
  e.struct_size = sizeof e;
  if (code != BATON_OK) e.code = code;
  if (e.code == BATON_OK) e.code = BATON_FAILED;
  if (!e.device[0]) put(e.device, device);
  if (!e.epoch) e.epoch = epoch;
  if (!e.what[0]) std::snprintf(e.what, sizeof e.what, "%s failed with %s and said no more", call, baton_code_name(e.code));
}

void add_hop(baton_error& e, const char* name) {
  size_t have = strnlen(e.hop, sizeof e.hop - 1), more = std::strlen(name);
  if (!have) {
    put(e.hop, name);
    return;
  }
  if (have == more && !std::strcmp(e.hop, name)) return;
  // The same hop twice in a row is one. After " > ": the name of a link ends with its far end's, which is another hop.
  if (have >= more + 3 && !std::strcmp(e.hop + have - more, name) && !std::memcmp(e.hop + have - more - 3, " > ", 3)) return;
  if (have >= 4 && !std::strcmp(e.hop + have - 4, " ...")) return;
  if (have + 3 + more + 4 < sizeof e.hop) {
    std::snprintf(e.hop + have, sizeof e.hop - have, " > %s", name);
  } else if (have + 5 <= sizeof e.hop) {
    std::snprintf(e.hop + have, sizeof e.hop - have, " ...");
  }
}

}  // namespace baton::core

const char* baton_code_name(int32_t code) {
  static const char* const names[] = {"OK",          "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION", "BUSY",      "UNSUPPORTED",
                                      "CAPACITY",    "DEVICE_LOST",      "PEER_LOST", "DEADLINE",   "CANCELLED", "VERSION",
                                      "MISMATCH",    "CORRUPT",          "FAILED",    "IO",         "INTERNAL"};
  return code >= 0 && code < int32_t(sizeof names / sizeof names[0]) ? names[code] : "UNKNOWN";
}

const char* baton_version(void) { return BATON_VERSION_STRING; }
