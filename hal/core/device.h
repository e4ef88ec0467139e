// device.h: an open device: its driver, its epoch, and its children (buffers, programs, queues).
//
// Owner    the caller, of the handle. A closed device lives on until its last child is gone, so that handles may be closed in any order.
// Threads  `call` serializes calls into the driver (see lock.h); `epoch`, `gone` change under the instance's lock and are read by any.
// Cost     a driver call each.   Errors  DEVICE_LOST once gone, until a reset succeeds; else the driver's.
#pragma once

#include "hal/core/error.h"
#include "hal/core/hold.h"

#include <atomic>
#include <string>

struct baton_device {
  baton_instance* instance = nullptr;
  const baton_driver* driver = nullptr;
  void* handle = nullptr;
  baton::core::LayerStack layers;  // if there are any, `driver` and `handle` are the outermost one's
  baton_driver_host services{};
  std::string uri;        // as given to the driver
  std::string shown;      // without the options
  baton_device_info info{};  // as of open: lanes, heaps and their properties do not change
  baton::core::OwnedLock call;
  std::atomic<uint64_t> epoch{1};
  std::atomic<bool> gone{false};
  baton_error cause{};         // of gone
  baton_error pending_loss{};  // reported outside of submit and poll; under `call`
  bool has_pending_loss = false;
  std::atomic<bool> skipped{false};  // a poll found `call` taken: the holder kicks when it leaves
  bool closed = false;
  std::atomic<uint32_t> children{0};
  baton::core::List<baton_buffer> buffers;
  baton::core::List<baton_program> programs;
  baton_stats_row* stats = nullptr;  // never NULL once open
  baton_device *prev = nullptr, *next = nullptr;
};

namespace baton::core {

// Holds a device's driver for one call from a user's thread.
class DriverCall {
 public:
  explicit DriverCall(baton_device* d) : d_(d) { d_->call.lock(); }
  ~DriverCall() {
    d_->call.unlock();
    if (d_->skipped.exchange(false)) d_->instance->waker.kick();
  }
  DriverCall(const DriverCall&) = delete;

 private:
  baton_device* d_;
};

// The poller's way to a driver: false if a user's thread is in it, who will then kick.
bool try_call(baton_device*);
// OK, or DEVICE_LOST for a handle made at `epoch`.
int32_t check_epoch(const baton_device*, uint64_t epoch, const char* what, baton_error*);
// A child is gone. Closes the driver's device and frees `d` if it was closed and this was the last. Instance lock held.
void drop_child(baton_device* d);
void free_dead_devices(baton_instance*);
// Fails everything in flight, raises the epoch. Instance lock held.
void lose_device(baton_device*, const baton_error& cause);
// Losses that were reported outside of submit and poll. Instance lock held.
void take_pending_losses(baton_instance*);

}  // namespace baton::core
