#include "drivers/host/launch.h"

#include "drivers/host/memory.h"

#include <vector>

namespace baton::host_driver {
namespace {

std::vector<engine::Binding> bindings_of(const baton_driver_op& op) {
  std::vector<engine::Binding> out;
  out.reserve(op.u.launch.binding_count);
  for (uint32_t i = 0; i < op.u.launch.binding_count; ++i) {
    const baton_driver_binding& b = op.u.launch.bindings[i];
    out.push_back({b.name, {static_cast<Memory*>(b.mem)->data() + b.offset, b.bytes}});
  }
  return out;
}

}  // namespace

Result<Program*> load_program(const void* program, uint64_t bytes, const baton_constant* constants, uint32_t count,
                              const engine::Options& options) {
  std::vector<engine::Constant> list;
  list.reserve(count);
  for (uint32_t i = 0; i < count; ++i)
    list.push_back({constants[i].name, {static_cast<const uint8_t*>(constants[i].data), constants[i].bytes}});
  BATON_ASSIGN(auto executable, engine::Executable::load({static_cast<const uint8_t*>(program), bytes}, list, options));
  return new Program{std::move(executable), 0};
}

Launch::Launch(const baton_driver_op& op, const baton_driver_host* core)
    : run_(static_cast<Program*>(op.u.launch.program)->executable, bindings_of(op), {op.u.launch.args, op.u.launch.arg_count},
           {.on_mark = [core, cookie = op.cookie](uint64_t k, uint64_t offset_ns) { return core->progress(cookie, k, offset_ns) == 0; }}) {}

engine::Step Launch::run_until(uint64_t end_ns) {
  engine::Step s;
  do s = run_.step();
  while (s == engine::Step::more && now_ns() < end_ns);
  return s;
}

}  // namespace baton::host_driver
