// Drives a launch: ops in order, iterations of a loop, stop tokens, failure.
#include "emulators/engine/run.h"

#include <cmath>
#include <cstring>

namespace baton::engine {

Run::Run(const Executable& exe, std::span<const Binding> bindings, std::span<const int64_t> args, RunHooks hooks)
    : impl_(std::make_unique<Impl>(exe.impl(), std::move(hooks))) {
  auto state = impl_->x.take_state();
  Status st = state ? Status() : Status(state.error());
  if (state) impl_->s = std::move(*state);
  if (st.ok()) st = bind(*impl_, bindings, args);
  if (st.ok()) return;
  impl_->error = st.error();
  impl_->state = Impl::State::failed;
}

Run::~Run() = default;
Run::Run(Run&&) noexcept = default;

// The first op of each iteration: positions move on by one.
static void begin_iteration(Run::Impl& r) {
  r.op = 0;
  fill_ropes(r);
}

// The rest of the token buffer says to the next launch in turn that it is over.
static void end_at_once(Run::Impl& r) {
  if (!r.x.options.numbers) return;
  for (const program::Op& op : r.x.program.ops)
    if (op.code == program::OpCode::embed && !op.stops.empty() && r.s->base[op.in[0]])
      std::memset(r.s->base[op.in[0]] + sizeof(int32_t), 0xff, uint64_t(r.steps) * sizeof(int32_t));
}

Step Run::step() {
  Impl& r = *impl_;
  if (r.state == Impl::State::failed) return Step::failed;
  if (r.state == Impl::State::done) return Step::done;
  const size_t ops = r.x.program.ops.size();
  if (r.state == Impl::State::ready) {
    r.state = Impl::State::running;
    if (r.x.options.cost) r.modelled += r.x.options.cost->launch_ns();
    if (r.over) {
      end_at_once(r);
      r.state = Impl::State::done;
      return Step::done;
    }
    begin_iteration(r);
  }
  while (r.op < ops && !r.s->live[r.op]) ++r.op;
  if (r.op < ops) {
    if (Status s = execute(r); !s.ok()) {
      r.error = s.error();
      r.state = Impl::State::failed;
      return Step::failed;
    }
    ++r.op;
  }
  if (r.op < ops) return Step::more;
  ++r.iteration;
  if (r.iteration < r.steps && !r.stopped) {
    begin_iteration(r);
    return Step::more;
  }
  r.state = Impl::State::done;
  return Step::done;
}

const Error& Run::error() const { return impl_->error; }
uint64_t Run::modelled_ns() const { return uint64_t(std::llround(impl_->modelled)); }
uint32_t Run::steps_done() const { return impl_->x.program.loop ? impl_->iteration : impl_->state == Impl::State::done; }

}  // namespace baton::engine
