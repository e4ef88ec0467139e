// remote_timeline_impl.hpp (internal): the two sides of a remote timeline.
//
// Owner    ExportedTimeline and RemoteTimeline.   Threads  as the endpoint.   Cost  -   Errors  -
#pragma once

#include "transport/timeline_hub.hpp"

namespace baton::transport {

struct ExportedTimeline::Impl final : TimelineSide {
  ~Impl() override;
  Status start(const Instance&, Endpoint::Impl&, const Timeline&, std::string name, const ExportOptions&);
  bool visible_to(const Session::Impl&) const;
  void welcome(TimelineEnd&); // a new importer

  void on_signal(TimelineEnd&, const Signal&) override;
  void on_message(TimelineEnd&, Message&) override;
  void on_lost(TimelineEnd&, const Error&) override;

  std::string name;
  ExportOptions options;
  std::optional<std::array<uint8_t, 16>> only; // by id: an address may be used again
  std::optional<Error> failure;
  void failed(const Error&) override;
};

struct RemoteTimeline::Impl final : TimelineSide {
  ~Impl() override;
  Status start(const Instance&, Session::Impl&, const std::string& name, uint64_t deadline_ns, const ImportOptions&);

  void on_signal(TimelineEnd&, const Signal&) override;
  void on_message(TimelineEnd&, Message&) override;
  void on_lost(TimelineEnd&, const Error&) override;

  Timeline mirror;
  bool may_signal = false, accepted = false;
  std::optional<Error> refused; // or lost before the answer

 private:
  void accept(TimelineEnd&, const Message&);
};

}  // namespace baton::transport
