/// \file
/// What a call at each rung takes now; the twin of anydepth_deploy/control/estimator.py, which says
/// why.
#pragma once

#include <cstddef>
#include <vector>

#include "anydepth/pilot.hpp"

namespace anydepth::control {

class CostEstimator {
 public:
  CostEstimator(const std::vector<Rung>& rungs, int percentile);

  /// A call at `rung` took `cost` milliseconds, a positive number.
  void observe(std::size_t rung, double cost);

  /// Milliseconds of a call at each rung, the median and the percentile.
  std::vector<double> costs;
  std::vector<double> tails;
  double scale = 1.0;
  std::vector<double> corrections;
  /// Of a call, as a part of it.
  double noise = 0.0;
  /// Whether the unit of costs is known.
  bool known = true;
  /// Seen so far.
  std::size_t steps = 0;

 private:
  void follow(std::size_t rung, double error);
  void judge(std::size_t rung, double ratio);
  void learn(std::size_t rung, double cost);
  void follow_tail(std::size_t rung, double ratio);
  void settle();

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::vector<double> ladder_;
  std::vector<double> guesses_;
  std::vector<double> spreads_;
  std::vector<int> visits_;
  double stretch_ = 1.0;
  double up_ = 1.0;
  double down_ = 1.0;
  double run_ = 0.0;
  std::size_t odd_rung_ = kNone;
  double odd_ratio_ = 1.0;
  std::vector<double> pending_;
  std::size_t blamed_ = kNone;
  double blame_ = 1.0;
};

}  // namespace anydepth::control
