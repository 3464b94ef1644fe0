/// \file
/// What a controller did, in words; the twin of anydepth_deploy/control/telling.py.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/pilot.hpp"
#include "control/estimator.hpp"
#include "control/policies.hpp"

namespace anydepth::control {

/// The last decision, and what it was made by.
struct Decision {
  const std::vector<Rung>& rungs;
  const CostEstimator& estimator;
  /// One of the two is there.
  const MeanPolicy* mean;
  const DeadlinePolicy* deadline;
  const Regulator* regulator;
  std::optional<std::size_t> rung;
  double target;
  std::optional<double> budget;
  std::size_t floor;
  std::size_t ceiling;
  int percentile;
  bool silent;
};

/// Why the call got its depth, in one line.
std::string why(const Decision& made);

}  // namespace anydepth::control
