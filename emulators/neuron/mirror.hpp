// mirror.hpp: a stack as others see it through a dma-buf, apart from how the device sees it: a remote write that is complete is not yet visible.
//
// On Trn2 a NIC's completion does not say that its payload has landed in HBM; the fence is a small read from the same memory (libfabric PR
// 12761). So, only with a visibility seed, exported allocations live twice: `array`, which the device and its owner's CPU use, and
// `wire`, the object that descriptors name. What the device writes is on the wire by the time its call returns (a launch: at its marks).
// What others write to the wire reaches the array at a fence; without one, page by page, when the seed says so at some later call.
//
// Owner    the Hbm.   Threads  under the Hbm's mutex; the wire is written by others at any time.
// Cost     an exchange compares the exported allocations, whole: for tests. Three times the memory of what is exported.
// Errors   IO (memory file).
//
//     BATON_ASSIGN(auto mirror, Mirror::create("hbm0", bytes, seed));
//     mirror->track(array, offset, bytes);  mirror->exchange(array);  mirror->fence(array, offset, bytes);
#pragma once

#include "hal/baton.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace baton::neuron_emu {

class Mirror {
 public:
  static Result<std::unique_ptr<Mirror>> create(const std::string& name, uint64_t bytes, uint64_t seed);
  ~Mirror();
  Mirror(const Mirror&) = delete;

  int fd() const { return fd_; }
  void track(uint8_t* array, uint64_t offset, uint64_t bytes);  // an allocation, once it is exported; again: nothing
  void untrack(uint64_t offset);                                // it is freed
  void exchange(uint8_t* array);                                // the device's writes out, and in what the seed lets in
  void fence(uint8_t* array, uint64_t offset, uint64_t bytes);  // in: all that is complete in the range

 private:
  struct Agreed {  // what both sides last agreed on
    uint8_t* data;
    uint64_t bytes;
  };
  Mirror(int fd, uint8_t* wire, uint64_t bytes, uint64_t seed) : fd_(fd), wire_(wire), bytes_(bytes), seed_(seed) {}
  bool let_in(uint64_t page) const;
  void exchange_page(uint8_t* array, uint64_t offset, uint8_t* agreed, uint64_t bytes, bool in);
  int fd_;
  uint8_t* wire_;
  uint64_t bytes_, seed_, round_ = 0;
  std::map<uint64_t, Agreed> tracked_;
};

}  // namespace baton::neuron_emu
