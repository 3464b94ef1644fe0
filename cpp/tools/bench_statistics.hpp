/// \file
/// Statistics of latencies, as `anydepth-deploy bench` has them: guarded percentiles, confidence
/// intervals of medians and of ratios. No sample is ever left out, and what too few samples cannot
/// say is absent, never a guess.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace bench {

/// A figure with its 95 % confidence interval; absent where samples are too few for one.
struct Estimate {
  double value = 0;
  std::optional<std::pair<double, double>> interval;
};

/// Of one depth, or of all requests, in milliseconds.
struct Latency {
  std::size_t count = 0;
  double minimum = 0;
  double mean = 0;
  /// Standard deviation of the sample (n - 1).
  std::optional<double> deviation;
  Estimate median;
  double maximum = 0;
  /// In the order they were asked for.
  std::vector<std::pair<double, std::optional<double>>> percentiles;
};

/// Samples that a percentile (0 to 100, exclusive) needs: the smallest n with `1 - p**n >= 0.95`.
/// With fewer, the largest of them may well be below it (Wilks' formula, 1941).
std::size_t samples_needed(double percent);

/// A percentile, interpolated linearly (Hyndman and Fan's type 7); of at least one sample.
double percentile(std::vector<double> samples, double percent);

double median(std::vector<double> samples);

/// The median of samples in the order they were taken. Intervals are those of the circular block
/// bootstrap, with blocks of about the cube root of n: latencies that follow each other resemble
/// each other.
Estimate estimate_median(const std::vector<double>& samples);

/// How many times larger one latency is than another. `paired`: samples of the same place were
/// taken right after each other, so that drift hits both alike; the estimate is the median of their
/// ratios. Otherwise it is the ratio of the medians.
Estimate ratio_of_medians(const std::vector<double>& numerator,
                          const std::vector<double>& denominator, bool paired);

/// Of durations in nanoseconds, at least one.
Latency summarise(const std::vector<std::int64_t>& nanoseconds,
                  const std::vector<double>& percents);

}  // namespace bench
