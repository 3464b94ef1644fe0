#include "control/policies.hpp"

#include <algorithm>

namespace anydepth::control {
namespace {

constexpr double kRepay = 4.0;
constexpr double kMostDebt = 4.0;
constexpr double kKeep = 0.15;
constexpr double kUsualGaps = 2.0;
constexpr double kUsualNoise = 6.0;
constexpr int kShortPatience = 4;
constexpr int kPatience = 100;
constexpr int kFresh = 50;
constexpr int kSecondPatience = 200;
constexpr int kMostPatience = 4096;
constexpr int kVain = 150;
constexpr double kSlack = 0.01;
constexpr double kSpare = 0.03;
constexpr double kRelief = 0.93;
constexpr double kProportional = 0.5;
constexpr double kIntegral = 0.3;

}  // namespace

double within(double value, double least, double most) {
  return value < least ? least : value > most ? most : value;
}

std::vector<std::size_t> front(const std::vector<double>& costs, std::size_t floor,
                               std::size_t ceiling) {
  std::vector<std::size_t> found{ceiling};
  double least = costs[ceiling];
  for (std::size_t rung = ceiling; rung-- > floor;) {
    if (costs[rung] < least) {
      least = costs[rung];
      found.push_back(rung);
    }
  }
  std::reverse(found.begin(), found.end());
  return found;
}

std::size_t deepest(const std::vector<double>& tails, double target, std::size_t floor,
                    std::size_t ceiling) {
  for (std::size_t rung = ceiling; rung > floor; --rung) {
    if (tails[rung] <= target) {
      return rung;
    }
  }
  return floor;
}

std::size_t MeanPolicy::choose(const CostEstimator& estimator, double target, std::size_t floor,
                               std::size_t ceiling) {
  const auto& costs = estimator.costs;
  const auto rungs = front(costs, floor, ceiling);
  const double least = costs[rungs.front()];
  const double most = costs[rungs.back()];
  const double aim = within(target, least, most);
  const double bound = kMostDebt * (most - least);
  const double owed = within(debt, -bound, bound);
  pair = around(estimator, rungs, aim, owed);
  const double low = costs[pair.first];
  const double high = costs[pair.second];
  setpoint = within(aim - owed / kRepay, low, high);
  debt = owed - (aim - setpoint);
  const double half = (high - low) / 2;
  const double carry = within(carry_, -half, half) + setpoint;
  const std::size_t rung = carry - low >= half ? pair.second : pair.first;
  carry_ = carry - costs[rung];
  return rung;
}

std::pair<std::size_t, std::size_t> MeanPolicy::around(const CostEstimator& estimator,
                                                       const std::vector<std::size_t>& rungs,
                                                       double aim, double owed) const {
  const auto& costs = estimator.costs;
  const auto [lower, upper] = pair;
  const double noise = estimator.noise * aim;
  double usual = kUsualNoise * noise;
  const auto wish = [&] { return -usual <= owed && owed <= usual ? aim : aim - owed / kRepay; };
  const auto place = std::find(rungs.begin(), rungs.end(), lower);
  if (lower != upper && place != rungs.end() && place + 1 != rungs.end() && *(place + 1) == upper) {
    const double gap = costs[upper] - costs[lower];
    usual = std::max(usual, kUsualGaps * gap);
    const double margin = std::max(kKeep * gap, noise);
    if (costs[lower] - margin <= wish() && wish() <= costs[upper] + margin) {
      return pair;
    }
  }
  for (std::size_t index = 1; index < rungs.size(); ++index) {
    if (wish() < costs[rungs[index]] || index == rungs.size() - 1) {
      return {rungs[index - 1], rungs[index]};
    }
  }
  return {rungs[0], rungs[0]};
}

DeadlinePolicy::DeadlinePolicy(std::size_t count) : patience_(count, kPatience) {}

std::size_t DeadlinePolicy::choose(const CostEstimator& estimator, double target, std::size_t floor,
                                   std::size_t ceiling) {
  const auto& tails = estimator.tails;
  forget(estimator, target);
  ++since_;
  std::size_t wanted = deepest(tails, target, floor, ceiling);
  if (!rung_) {
    return take(wanted, false);
  }
  const std::size_t here = *rung_;
  if (wanted < here && tails[here] > target * (1 + kSlack)) {
    if (rose_ && since_ <= kVain) {
      wait_longer(here);
    }
    scale_ = estimator.scale;
    return take(wanted, false);
  }
  wanted = deepest(tails, target * (1 - kSpare), floor, ceiling);
  if (wanted <= here) {
    waiting = 0;
    return here;
  }
  ++waiting;
  return waiting < patience_[wanted] ? here : take(wanted, true);
}

std::size_t DeadlinePolicy::take(std::size_t rung, bool rose) {
  rung_ = rung;
  rose_ = rose;
  since_ = 0;
  waiting = 0;
  return rung;
}

void DeadlinePolicy::wait_longer(std::size_t rung) {
  const int before = patience_[rung];
  const int longer = before < kSecondPatience ? kSecondPatience : 2 * before;
  for (std::size_t index = rung; index < patience_.size(); ++index) {
    if (patience_[index] < longer) {
      patience_[index] = std::min(longer, kMostPatience);
    }
  }
}

void DeadlinePolicy::forget(const CostEstimator& estimator, double target) {
  if (estimator.steps != steps_ || estimator.scale < kRelief * scale_ || target != target_) {
    target_ = target;
    steps_ = estimator.steps;
    scale_ = estimator.scale;
    std::fill(patience_.begin(), patience_.end(), kShortPatience);
    fresh_ = kFresh;
  } else if (fresh_ > 0) {
    --fresh_;
    if (fresh_ == 0) {
      for (int& calls : patience_) {
        calls = std::max(calls, kPatience);
      }
    }
  }
}

void Regulator::update(double value) {
  reading = value;
  const double error = (target - value) / target;
  integral += kIntegral * error;
  const double wish = integral + kProportional * error;
  position = within(wish, 0.0, 1.0);
  integral += position - wish;
}

}  // namespace anydepth::control
