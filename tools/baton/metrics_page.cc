#include "tools/baton/metrics_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace baton::runtime {

namespace {

constexpr uint64_t kRefreshNs = 200'000'000;

}  // namespace

uint64_t Window::quantile(double q) const {
  const auto n = size_t(std::min<uint64_t>(count_, samples_.size()));
  if (!n) return 0;
  std::vector<uint64_t> sorted(samples_.begin(), samples_.begin() + ptrdiff_t(n));
  std::sort(sorted.begin(), sorted.end());
  return sorted[std::clamp<size_t>(size_t(std::ceil(q * double(n))), 1, n) - 1];
}

uint64_t& MetricsPage::word(const std::string& name) {
  uint64_t*& w = words_[name];
  if (!w) w = instance_.stats_value(name);
  return w ? *w : nowhere_;
}

bool MetricsPage::due() {
  if (now_ns() < next_ns_) return false;
  next_ns_ = now_ns() + kRefreshNs;
  return true;
}

void MetricsPage::refresh() {
  const std::pair<const char*, const Window*> windows[] = {{"baton_ttft_wall_seconds", &ttft_wall}, {"baton_itl_wall_seconds", &itl_wall}, {"baton_itl_modelled_seconds", &itl_modelled}};
  for (const auto& [name, w] : windows)
    for (const char* q : {"0.5", "0.9", "0.99"})
      if (w->count()) set(fmt::format("{}{{quantile=\"{}\"}}", name, q), w->quantile(std::stod(q)));
}

}  // namespace baton::runtime
