#include "bench_measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

std::int64_t nanoseconds(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

/// Orders of calls, drawn anew each time.
class Orders {
 public:
  Orders(std::size_t count, std::uint64_t seed) : draw_(seed), order_(count) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
  }

  const std::vector<std::size_t>& next() {
    for (auto left = order_.size(); left > 1; --left) {
      std::swap(order_[left - 1], order_[draw_() % left]);
    }
    return order_;
  }

 private:
  std::mt19937_64 draw_;
  std::vector<std::size_t> order_;
};

class Run {
 public:
  Run(const std::vector<Call>& calls, std::size_t items, const Options& options)
      : calls_(calls), items_(items), options_(options), orders_(calls.size(), options.seed) {}

  Measured measure(const std::function<void()>& ready) {
    for (const auto& call : calls_) {
      const auto began = Clock::now();
      call(0);
      measured_.first.push_back(nanoseconds(Clock::now() - began));
    }
    warm_up();
    ready();
    zero_ = Clock::now();
    if (options_.mode == "fixed") {
      in_turn();
    } else {
      together();
    }
    return std::move(measured_);
  }

 private:
  void warm_up() const {
    for (const auto& call : calls_) {
      const auto until = Clock::now() + std::chrono::duration<double>(options_.warmup);
      for (std::size_t made = 0; made < options_.warmup_count || Clock::now() < until; ++made) {
        call(made % items_);
      }
    }
  }

  /// One call at a time, several stretches of each, their order drawn anew.
  void in_turn() {
    const auto parts = static_cast<double>(options_.repeats);
    const auto least = std::ceil(static_cast<double>(options_.count) / parts);
    for (std::size_t repeat = 0; repeat < options_.repeats; ++repeat) {
      for (const auto index : orders_.next()) {
        for (std::size_t made = 0; made < options_.warmup_count; ++made) {
          calls_[index](made % items_);
        }
        stretch(index, static_cast<std::size_t>(least), options_.duration / parts,
                [&](std::int64_t round) { call(index, round); });
      }
    }
  }

  /// Rounds of all calls: drift hits all alike, and samples of a round can be compared in pairs.
  void together() {
    const auto duration = options_.duration * static_cast<double>(calls_.size());
    stretch(0, options_.count, duration, [&](std::int64_t round) {
      for (const auto index : orders_.next()) {
        call(index, round);
      }
    });
  }

  template <typename Round>
  void stretch(std::size_t index, std::size_t least, double seconds, const Round& make) {
    const auto first = measured_.samples.size();
    const auto until = Clock::now() + std::chrono::duration<double>(seconds);
    for (std::size_t made = 0; made < least || Clock::now() < until; ++made) {
      make(static_cast<std::int64_t>(made));
    }
    const auto wall = measured_.samples.back().ended - measured_.samples[first].began;
    measured_.stretches.push_back({index, static_cast<double>(wall) / 1e9});
  }

  void call(std::size_t index, std::int64_t round) {
    const auto& run = calls_[index];
    const auto item = static_cast<std::size_t>(round) % items_;
    const auto began = Clock::now();
    run(item);
    const auto ended = Clock::now();
    measured_.samples.push_back({index, round, nanoseconds(began - zero_),
                                 nanoseconds(ended - zero_)});
  }

  const std::vector<Call>& calls_;
  std::size_t items_;
  const Options& options_;
  Orders orders_;
  Clock::time_point zero_;
  Measured measured_;
};

}  // namespace

double milliseconds_of(const std::function<void()>& work) {
  const auto began = Clock::now();
  work();
  return static_cast<double>(nanoseconds(Clock::now() - began)) / 1e6;
}

Measured measure(const std::vector<Call>& calls, std::size_t items, const Options& options,
                 const std::function<void()>& ready) {
  return Run(calls, items, options).measure(ready);
}

}  // namespace bench
