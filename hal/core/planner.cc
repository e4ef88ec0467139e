#include "hal/core/planner.h"

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
    if (i == 0 || (h.mappable && !a.mappable)) a = {h.mappable != 0, h.exportable != 0, h.name};
  }
  return a;
}

std::string end(const baton_device* d, const Access& a) { return d->shown + " (" + a.heap + ")"; }

const char* how(const Access& visible) { return visible.exportable ? "imported" : "mapped"; }

}  // namespace

CopyPlan plan_link(baton_buffer* src, baton_buffer* dst) {
  if (src->device == dst->device) return {Path::on_from, true};
  const bool src_visible = host_address(src, nullptr) != nullptr, dst_visible = host_address(dst, nullptr) != nullptr;
  if (src_visible && dst_visible) {
    // A timed device moves the bytes itself, so that its model sees them; between two untimed memories memcpy is all there is.
    if (dst->device->info.modelled) return {Path::on_to};
    if (src->device->info.modelled) return {Path::on_from};
    return {Path::memcpy};
  }
  if (src_visible) return {Path::on_to};
  if (dst_visible) return {Path::on_from};
  return {Path::staged};
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
  if (from->instance != to->instance)
    return fail(error, make_error(BATON_INVALID_ARGUMENT, from->uri.c_str(), "open both devices in one instance",
                                  "%s and %s belong to different instances", from->shown.c_str(), to->shown.c_str()));
  const Access a = access_of(from), b = access_of(to);
  const std::string src = end(from, a), dst = end(to, b);
  std::string plan;
  if (from == to) {
    plan = "direct    " + src + " -> " + dst + ": one memory, copied by its driver\n";
  } else if (a.mappable && b.mappable && !from->info.modelled && !to->info.modelled) {
    plan = "mapped    " + src + " -> " + dst + ": both are host memory, copied by memcpy\n";
  } else if (a.mappable && (!b.mappable || to->info.modelled)) {
    plan = std::string(how(a)) + (a.exportable ? "  " : "    ") + src + " -> " + dst + ": " + to->shown + " reads " + from->shown +
           (a.exportable ? " by its host address or descriptor\n" : " by its host address\n");
  } else if (b.mappable) {
    plan = std::string(how(b)) + (b.exportable ? "  " : "    ") + src + " -> " + dst + ": " + from->shown + " writes " + to->shown +
           (b.exportable ? " by its host address or descriptor\n" : " by its host address\n");
  } else {
    plan = "staged    " + src + " -> host: neither memory is host-visible; 8 x 1 MiB of staging\n" + "staged    host -> " + dst +
           ": each chunk as soon as it is there\n";
  }
  for (const baton_device* d : {from, to}) {
    if (d->driver->submit && d->driver->queue_open) continue;
    if (from != to && a.mappable && b.mappable) continue;
    return fail(error, make_error(BATON_UNSUPPORTED, d->uri.c_str(), "use a device whose driver has a queue",
                                  "no edge %s -> %s: the driver of %s takes no ops", from->shown.c_str(), to->shown.c_str(),
                                  d->shown.c_str()));
  }
  if (text && text_bytes) std::snprintf(text, text_bytes, "%s", plan.c_str());
  return ok(error);
}
