/// \file
/// Which rung a call gets; the twin of anydepth_deploy/control/policies.py and regulator.py, which
/// say why.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "control/estimator.hpp"

namespace anydepth::control {

double within(double value, double least, double most);

/// The rungs from `floor` to `ceiling` that no deeper one undercuts, from cheap to dear.
std::vector<std::size_t> front(const std::vector<double>& costs, std::size_t floor,
                               std::size_t ceiling);

/// The deepest rung whose percentile meets `target`; the floor where none does.
std::size_t deepest(const std::vector<double>& tails, double target, std::size_t floor,
                    std::size_t ceiling);

/// Holds the mean of calls.
class MeanPolicy {
 public:
  std::size_t choose(const CostEstimator& estimator, double target, std::size_t floor,
                     std::size_t ceiling);
  void observe(double planned, double cost) { debt += cost - planned; }

  double setpoint = 0.0;
  std::pair<std::size_t, std::size_t> pair{0, 0};
  double debt = 0.0;

 private:
  std::pair<std::size_t, std::size_t> around(const CostEstimator& estimator,
                                             const std::vector<std::size_t>& rungs, double aim,
                                             double owed) const;
  double carry_ = 0.0;
};

/// Meets a deadline.
class DeadlinePolicy {
 public:
  explicit DeadlinePolicy(std::size_t count);
  std::size_t choose(const CostEstimator& estimator, double target, std::size_t floor,
                     std::size_t ceiling);

  /// For how many calls a deeper rung would have met it.
  int waiting = 0;

 private:
  std::size_t take(std::size_t rung, bool rose);
  void wait_longer(std::size_t rung);
  void forget(const CostEstimator& estimator, double target);

  std::optional<std::size_t> rung_;
  std::vector<int> patience_;
  int since_ = 0;
  bool rose_ = false;
  std::size_t steps_ = 0;
  double scale_ = 1.0;
  double target_ = 0.0;
  int fresh_ = 0;
};

/// Holds what a sensor says.
struct Regulator {
  void update(double value);

  double target = 0.0;
  double position = 0.0;
  std::optional<double> reading;
  double integral = 0.0;
};

}  // namespace anydepth::control
