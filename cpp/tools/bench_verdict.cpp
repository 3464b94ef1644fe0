#include "bench_verdict.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "bench_text.hpp"

namespace bench {
namespace {

// Medians of the three thirds of a run may differ by this share, or by what chance explains.
constexpr double kDrift = 0.05;
constexpr std::size_t kLeastForDrift = 30;
// Half of a median's interval, as a share of the median, at most.
constexpr double kPrecision = 0.05;
// Samples over three medians may take this share of the time.
constexpr double kStall = 3;
constexpr double kStallShare = 0.025;
// Calls this many times slower or faster than the median may differ from it by this share of the
// time.
constexpr double kFar = 1.25;
constexpr double kSpread = 0.05;

const std::vector<std::string> kOrder{"throttled", "unstable", "unknown", "valid"};

std::array<std::vector<double>, 3> thirds_of(const std::vector<double>& took) {
  std::array<std::vector<double>, 3> thirds;
  auto begin = took.begin();
  for (std::size_t place = 0; place < 3; ++place) {
    const auto size = took.size() / 3 + (place < took.size() % 3 ? 1 : 0);
    thirds[place].assign(begin, begin + static_cast<std::ptrdiff_t>(size));
    begin += static_cast<std::ptrdiff_t>(size);
  }
  return thirds;
}

/// Whether the slowest third of a run is slower than the fastest, by more than chance.
std::vector<std::string> drift(const std::vector<double>& took) {
  if (took.size() < kLeastForDrift) {
    return {format("%zu samples are too few to tell whether latency drifted, which takes %zu",
                   took.size(), kLeastForDrift)};
  }
  const auto thirds = thirds_of(took);
  std::array<double, 3> medians{};
  std::transform(thirds.begin(), thirds.end(), medians.begin(), median);
  const auto [fastest, slowest] = std::minmax_element(medians.begin(), medians.end());
  if (*slowest <= (1 + kDrift) * *fastest) {
    return {};
  }
  const auto third = [&](const double* which) -> const std::vector<double>& {
    return thirds[static_cast<std::size_t>(which - medians.data())];
  };
  const auto apart = ratio_of_medians(third(slowest), third(fastest), false);
  if (apart.interval && apart.interval->first <= 1) {
    return {};
  }
  return {format("latency drifted: medians of the thirds of the run are as %.2f, %.2f, %.2f", 1.0,
                 medians[1] / medians[0], medians[2] / medians[0])};
}

/// Whether calls that are alike took times that are not.
std::vector<std::string> spread(const std::vector<double>& took, double middle, double total) {
  if (took.size() < kLeastForDrift) {
    return {};
  }
  std::size_t away = 0;
  double apart = 0;
  for (const auto value : took) {
    if (value > kFar * middle || kFar * value < middle) {
      ++away;
      apart += std::abs(value - middle);
    }
  }
  if (away == 0 || apart / total <= kSpread) {
    return {};
  }
  return {format("spread: %zu of %zu calls were over %g times slower or faster than the median, by "
                 "%.0f %% of the time (at most %.0f %%)",
                 away, took.size(), kFar, 100 * apart / total, 100 * kSpread)};
}

}  // namespace

Verdict without_sensors() {
  return {"unknown", {"no sensor was read: anydepth-bench has none"}};
}

Verdict judge_latency(const std::vector<double>& took, const Latency& latency) {
  auto reasons = drift(took);
  const auto middle = median(took);
  const auto total = std::accumulate(took.begin(), took.end(), 0.0);
  std::size_t stalls = 0;
  double beyond = 0;
  for (const auto value : took) {
    if (value > kStall * middle) {
      ++stalls;
      beyond += value - middle;
    }
  }
  if (beyond / total > kStallShare) {
    reasons.push_back(
        format("stalls: %zu of %zu calls took over %g times the median and %.0f %% of the time",
               stalls, took.size(), kStall, 100 * beyond / total));
  } else {
    const auto found = spread(took, middle, total);
    reasons.insert(reasons.end(), found.begin(), found.end());
  }
  const auto& found = latency.median;
  if (!found.interval) {
    reasons.push_back(
        format("%zu samples are too few for a confidence interval", latency.count));
  } else if (const auto width = found.interval->second - found.interval->first;
             width > 2 * kPrecision * found.value) {
    reasons.push_back(
        format("the median is known to within %.0f %% only: measure for longer",
               100 * width / 2 / found.value));
  }
  return {reasons.empty() ? "valid" : "unstable", reasons};
}

Verdict worst(const std::vector<Verdict>& verdicts) {
  Verdict found{"valid", {}};
  const auto rank = [](const std::string& word) {
    return std::find(kOrder.begin(), kOrder.end(), word);
  };
  for (const auto& verdict : verdicts) {
    if (rank(verdict.word) < rank(found.word)) {
      found.word = verdict.word;
    }
    for (const auto& reason : verdict.reasons) {
      if (std::find(found.reasons.begin(), found.reasons.end(), reason) == found.reasons.end()) {
        found.reasons.push_back(reason);
      }
    }
  }
  return found;
}

}  // namespace bench
