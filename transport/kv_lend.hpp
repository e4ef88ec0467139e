// kv_lend.hpp: KV-cache handed over on one host without a copy: the decode side reads it where the prefill side made it.
//
// A lender shares its pool once; then a request is a list of blocks in shared memory, and the receipt of them one line of a ring (the road of
// the data, not of the session). The decode side reads the blocks in place and gives them back. It must be able to read the lender's layout as
// it is: what differs is refused, first difference named. Where a copy or another layout is wanted: kv_link.hpp.
//
// Who may touch what. A lent block is not written until it came back. A lender that takes blocks back early (its session to the borrower is
// lost, or recall()) marks the loan first; so the borrower reads, THEN asks check(), then uses what it read. The death of the lender's process ends
// the session, not the loans: the memory stays, nobody writes it, and check() goes on saying yes.
//
// Owner    The caller owns both; destroy them before their session, and a borrower before its device. KvBorrower owns the mapping: loans are void with it.
// Threads  As the Instance. The shared page is never trusted: what is read from it is copied, then checked.
// Cost     lend: about 2 ns a block, no system call unless the borrower sleeps. take: the same. Nothing allocated once warm.
// Errors   MISMATCH (model or layout), UNSUPPORTED (another host, memory that is not shareable), BUSY (1024 loans, or 2^20 ids, are out), PEER_LOST.
//
//     prefill side                                                       decode side
//     BATON_ASSIGN(auto l, KvLender::open(in, s, pool, layout, o, t));   BATON_ASSIGN(auto b, KvBorrower::create(in, s, host, layout, o));
//     BATON_ASSIGN(id, l.lend(blocks, {.tokens = 512}));                 while (!b.take(loan)) in.poll_wait(t);   // loan.blocks, in b.memory()
//     l.returned(ids);                                                   upload(b.memory(), loan.blocks);  BATON_TRY(b.check(loan));  b.give_back(loan);
#pragma once

#include "transport/kv_link.hpp"

#include <memory>
#include <string>
#include <vector>

namespace baton::transport {

struct LendOptions {
  std::string model = {};     // hash of config and weights: another is refused
  std::string name = "kv";    // tells apart the pools of one session: "rank 0"
};

struct KvLoanTerms {
  uint64_t tokens = 0;
  uint64_t tag = 0;           // the caller's: the request
  uint64_t modelled_ns = 0;   // when the last layer was made, in modelled time
};

class KvLender {
 public:
  // `pool` must be exportable. Polls until a KvBorrower of that name has mapped it, or the deadline.
  static Result<KvLender> open(const Instance&, Session&, const Buffer& pool, const KvLayout&, LendOptions, uint64_t deadline_ns);
  // The same without waiting: opened() is asked after polls, until it says how it went; nullopt: not yet. The descriptor is not consumed.
  static Result<KvLender> begin(Session&, const HostMemory& pool, const KvLayout&, LendOptions, uint64_t deadline_ns);
  std::optional<Status> opened();
  KvLender(KvLender&&) noexcept;
  ~KvLender();                                   // recalls what is out
  // The blocks hold `terms.tokens` tokens and stay as they are until returned() names the loan, or recall().
  Result<uint64_t> lend(std::span<const int32_t> blocks, const KvLoanTerms& terms);
  void returned(std::vector<uint64_t>& loans);   // appends those that came back
  // The blocks are the lender's again at once: whatever the borrower still reads of them, its check() refuses.
  void recall(uint64_t loan);
  size_t out() const;                            // loans
  Status alive() const;                          // PEER_LOST once the borrower is: its loans are recalled then
  struct Impl;

 private:
  explicit KvLender(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

struct KvLoan {
  uint64_t id = 0;
  KvLoanTerms terms;
  std::vector<int32_t> blocks; // of memory()
};

class KvBorrower {
 public:
  // Returns at once; answers the session's lender of that name when it comes. `layout` is what this side can read; its `blocks` may be 0: any number.
  // The memory is imported into `device`; without one it is mapped into this process alone, see base().
  static Result<KvBorrower> create(const Instance&, Session&, const Device& device, const KvLayout& layout, LendOptions);
  static Result<KvBorrower> create(Session&, const KvLayout& layout, LendOptions);
  KvBorrower(KvBorrower&&) noexcept;
  ~KvBorrower();
  bool ready() const;                // the lender's pool is mapped
  const Buffer& memory() const;      // it, to be read only; not of a borrower without a device
  const void* base() const;          // it, in this process; of a borrower without a device alone
  const KvLayout& layout() const;    // its layout, blocks and all
  bool take(KvLoan& into);           // the next loan, if any, into a value whose memory is reused
  Status check(const KvLoan&) const; // after reading, before using: OK if nothing can have changed meanwhile; CANCELLED if it was taken back
  void give_back(const KvLoan&);
  struct Impl;

 private:
  static Result<KvBorrower> make(Session&, const Device*, const KvLayout&, LendOptions);
  explicit KvBorrower(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::transport
