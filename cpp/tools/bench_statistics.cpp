#include "bench_statistics.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace bench {
namespace {

constexpr double kConfidence = 0.95;
constexpr std::size_t kFewest = 10;  // samples below which no interval is given
constexpr std::size_t kResamples = 1000;

/// `samples`, drawn again in blocks that wrap around.
std::vector<double> resampled(const std::vector<double>& samples, std::mt19937_64& draw) {
  const auto count = samples.size();
  const auto length = static_cast<std::size_t>(
      std::max(1L, std::lround(std::cbrt(static_cast<double>(count)))));
  std::vector<double> found;
  found.reserve(count);
  while (found.size() < count) {
    const auto start = draw() % count;
    for (std::size_t step = 0; step < length && found.size() < count; ++step) {
      found.push_back(samples[(start + step) % count]);
    }
  }
  return found;
}

std::optional<std::pair<double, double>> interval(std::size_t fewest,
                                                  const std::function<double()>& statistic) {
  if (fewest < kFewest) {
    return std::nullopt;
  }
  std::vector<double> found(kResamples);
  std::generate(found.begin(), found.end(), statistic);
  const auto tail = 50 * (1 - kConfidence);
  return std::make_pair(percentile(found, tail), percentile(found, 100 - tail));
}

}  // namespace

std::size_t samples_needed(double percent) {
  return static_cast<std::size_t>(std::ceil(std::log(1 - kConfidence) / std::log(percent / 100)));
}

double percentile(std::vector<double> samples, double percent) {
  const auto at = static_cast<double>(samples.size() - 1) * (percent / 100);
  const auto below = static_cast<std::size_t>(std::floor(at));
  const auto above = std::min(below + 1, samples.size() - 1);
  const auto place = [&](std::size_t index) {
    return samples.begin() + static_cast<std::ptrdiff_t>(index);
  };
  std::nth_element(samples.begin(), place(below), samples.end());
  const auto low = samples[below];
  const auto high = above == below ? low : *std::min_element(place(above), samples.end());
  const auto share = at - std::floor(at);
  // From the nearer end, as numpy does it.
  return share < 0.5 ? low + (high - low) * share : high - (high - low) * (1 - share);
}

double median(std::vector<double> samples) {
  const auto half = samples.size() / 2;
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(half);
  std::nth_element(samples.begin(), middle, samples.end());
  if (samples.size() % 2 == 1) {
    return *middle;
  }
  return (*std::max_element(samples.begin(), middle) + *middle) / 2;
}

Estimate estimate_median(const std::vector<double>& samples) {
  std::mt19937_64 draw;
  return {median(samples), interval(samples.size(), [&] {
            return median(resampled(samples, draw));
          })};
}

Estimate ratio_of_medians(const std::vector<double>& numerator,
                          const std::vector<double>& denominator, bool paired) {
  if (paired) {
    std::vector<double> ratios(numerator.size());
    std::transform(numerator.begin(), numerator.end(), denominator.begin(), ratios.begin(),
                   std::divides<>());
    return estimate_median(ratios);
  }
  std::mt19937_64 draw;
  return {median(numerator) / median(denominator),
          interval(std::min(numerator.size(), denominator.size()), [&] {
            const auto over = median(resampled(numerator, draw));
            return over / median(resampled(denominator, draw));
          })};
}

Latency summarise(const std::vector<std::int64_t>& nanoseconds,
                  const std::vector<double>& percents) {
  std::vector<double> values(nanoseconds.size());
  std::transform(nanoseconds.begin(), nanoseconds.end(), values.begin(),
                 [](std::int64_t value) { return static_cast<double>(value) / 1e6; });
  Latency found;
  found.count = values.size();
  found.minimum = *std::min_element(values.begin(), values.end());
  found.maximum = *std::max_element(values.begin(), values.end());
  long double sum = 0;
  for (const auto value : values) {
    sum += value;
  }
  const auto mean = sum / static_cast<long double>(values.size());
  found.mean = static_cast<double>(mean);
  if (values.size() > 1) {
    long double squares = 0;
    for (const auto value : values) {
      squares += (value - mean) * (value - mean);
    }
    found.deviation = static_cast<double>(
        std::sqrt(squares / static_cast<long double>(values.size() - 1)));
  }
  found.median = estimate_median(values);
  for (const auto percent : percents) {
    std::optional<double> value;
    if (values.size() >= samples_needed(percent)) {
      value = percentile(values, percent);
    }
    found.percentiles.emplace_back(percent, value);
  }
  return found;
}

}  // namespace bench
