#include "hal/core/planner.h"

#include "hal/core/validate.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

namespace baton::core {
namespace {

// What a heap offers, for the printed plan. Buffers are asked one by one when copied.
struct Access {
  bool mappable = false, exportable = false;
  std::string heap;
};

Access access_of(const baton_device* d) {
  Access a;
  for (uint32_t i = 0; i < d->info.heap_count && i < BATON_MAX_HEAPS; ++i) {
    const baton_heap_info& h = d->info.heaps[i];
    const bool mappable = h.mappable && d->driver->map;
    if (i == 0 || (mappable && !a.mappable)) a = {mappable, h.exportable && d->driver->export_buffer, h.name};
  }
  return a;
}

std::string end(const baton_device* d, const Access& a) { return d->shown + " (" + a.heap + ")"; }

bool takes_ops(const baton_device* d) { return d->driver->submit && d->driver->queue_open; }

// A timed device moves the bytes itself, so that its model sees them; between two untimed memories memcpy is all there is.
Path choose(const baton_device* from, bool from_visible, const baton_device* to, bool to_visible) {
  if (from == to) return takes_ops(from) ? Path::on_from : Path::none;
  if (from_visible && to_visible) {
    if (to->info.modelled && takes_ops(to)) return Path::on_to;
    if (from->info.modelled && takes_ops(from)) return Path::on_from;
    return Path::memcpy;
  }
  if (from_visible) return takes_ops(to) ? Path::on_to : Path::none;
  if (to_visible) return takes_ops(from) ? Path::on_from : Path::none;
  return takes_ops(from) && takes_ops(to) ? Path::staged : Path::none;
}

// One hop in which `mover` reads or writes the memory of `visible`.
std::string one_hop(const std::string& edge, const baton_device* mover, const char* verb, const baton_device* visible, const Access& a) {
  return std::string(a.exportable ? "imported  " : "mapped    ") + edge + ": " + mover->shown + " " + verb + " " + visible->shown +
         (a.exportable ? " by its host address or descriptor\n" : " by its host address\n");
}

}  // namespace

Path plan_link(baton_buffer* src, baton_buffer* dst) {
  return choose(src->device, host_address(src, nullptr) != nullptr, dst->device, host_address(dst, nullptr) != nullptr);
}

int32_t no_path(const baton_device* from, const baton_device* to, baton_error* error) {
  const baton_device* idle = takes_ops(from) ? to : from;
  return fail(error, make_error(BATON_UNSUPPORTED, idle->uri.c_str(), "use a device whose driver has a queue, or one with a mappable heap",
                                "no edge %s -> %s: the driver of %s takes no ops", from->shown.c_str(), to->shown.c_str(),
                                idle->shown.c_str()));
}

int32_t resolve_side(baton_device* d, baton_buffer* b, uint64_t offset, baton_driver_side& side, baton_error* error) {
  side = {};
  side.fd = -1;
  if (b->device == d) {
    side.mem = b->memory;
    side.offset = offset;
    return BATON_OK;
  }
  void* address = host_address(b, nullptr);
  if (!address)
    return fail(error, make_error(BATON_UNSUPPORTED, d ? d->uri.c_str() : "",
                                  "submit the copy to a link: baton_link_open(from, to) stages it through host memory",
                                  "no direct edge between %s and %s: memory of %s is not host-visible", d ? d->shown.c_str() : "the link",
                                  b->device->shown.c_str(), b->device->shown.c_str()));
  side.ptr = static_cast<uint8_t*>(address) + offset;
  find_descriptor(b);
  side.fd = b->fd;
  side.fd_offset = b->fd_offset + offset;
  return BATON_OK;
}

}  // namespace baton::core

using namespace baton::core;

int32_t baton_plan_copy(baton_device* from, baton_device* to, char* text, uint64_t text_bytes, baton_error* error) {
  if (!from || !to) return fail(error, make_error(BATON_INVALID_ARGUMENT, "", "", "baton_plan_copy: a device is NULL"));
  for (baton_device* d : {from, to})
    if (int32_t code = check_alive(d, "baton_plan_copy", error)) return code;
  if (from->instance != to->instance)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, from->uri.c_str(), "open both devices in one instance",
                                  "%s and %s belong to different instances", from->shown.c_str(), to->shown.c_str()));
  const Access a = access_of(from), b = access_of(to);
  const std::string src = end(from, a), dst = end(to, b), edge = src + " -> " + dst;
  std::string plan;
  switch (choose(from, a.mappable, to, b.mappable)) {
    case Path::none: return no_path(from, to, error);
    case Path::memcpy: plan = "mapped    " + edge + ": both are host memory, copied by memcpy\n"; break;
    case Path::on_to: plan = one_hop(edge, to, "reads", from, a); break;
    case Path::on_from:
      plan = from == to ? "direct    " + edge + ": one memory, copied by its driver\n" : one_hop(edge, from, "writes", to, b);
      break;
    case Path::staged:
      plan = "staged    " + src + " -> host: neither memory is host-visible; 8 x 1 MiB of staging\n" + "staged    host -> " + dst +
             ": each chunk as soon as it is there\n";
  }
  if (text && text_bytes) std::snprintf(text, text_bytes, "%s", plan.c_str());
  return ok(error);
}
