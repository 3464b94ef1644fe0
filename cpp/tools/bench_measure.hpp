/// \file
/// The loops that make calls and note when. Nothing but the call lies between the two looks at the
/// clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "bench_options.hpp"

namespace bench {

/// Runs one of the inputs, by its index, and returns when the result is there.
using Call = std::function<void(std::size_t item)>;

/// One call, in nanoseconds since measuring began. `round`: calls of the same round are pairs.
struct Sample {
  std::size_t call = 0;
  std::int64_t round = 0;
  std::int64_t began = 0;
  std::int64_t ended = 0;
};

/// A part of the run with no pause in it; `call` is the only one that was made in it in mode fixed.
struct Stretch {
  std::size_t call = 0;
  double seconds = 0;
};

/// What was noted, in the order calls were made.
struct Measured {
  std::vector<std::int64_t> first;
  std::vector<Sample> samples;
  std::vector<Stretch> stretches;
};

/// Milliseconds that `work` takes.
double milliseconds_of(const std::function<void()>& work);

/// Makes the first call of each, warms up, calls `ready`, and makes the calls that count.
Measured measure(const std::vector<Call>& calls, std::size_t items, const Options& options,
                 const std::function<void()>& ready);

}  // namespace bench
