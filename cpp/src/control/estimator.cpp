#include "control/estimator.hpp"

#include <algorithm>

#include "control/rungs.hpp"

namespace anydepth::control {
namespace {

constexpr double kGain = 0.05;
constexpr double kMostGain = 0.3;
constexpr double kOwnGain = 0.05;
constexpr double kNoiseGain = 0.05;
constexpr double kLeastStep = 0.06;
constexpr double kStepNoise = 3.0;
constexpr double kFading = 1.0 / 300;
constexpr double kSame = 0.25;
constexpr int kFirstVisits = 3;
constexpr double kUsualTail = 0.1;
constexpr double kLeastTail = 0.02;
constexpr double kTailGain = 0.1;
constexpr double kMostTail = 50.0;

/// The one that is nearer to 1, of two on the same side of it.
double nearer(double one, double other) { return (one < other) == (one > 1) ? one : other; }

}  // namespace

CostEstimator::CostEstimator(const std::vector<Rung>& rungs, int percentile)
    : corrections(rungs.size(), 1.0),
      known(!rungs[0].guessed),
      visits_(rungs.size(), rungs[0].guessed ? 0 : kFirstVisits),
      pending_(rungs.size(), 0.0) {
  for (const auto& rung : rungs) {
    ladder_.push_back(rung.milliseconds);
    spreads_.push_back(std::max(tail(rung, percentile).value_or(kUsualTail), kLeastTail));
  }
  guesses_ = ladder_;
  const int rare = 100 - percentile;
  down_ = 1 - kTailGain * rare / 100;
  for (int turn = 0; turn < percentile / rare; ++turn) {
    up_ /= down_;
  }
  noise = *std::min_element(spreads_.begin(), spreads_.end()) / 3;
  settle();
}

void CostEstimator::observe(std::size_t rung, double cost) {
  if (visits_[rung] < kFirstVisits) {
    learn(rung, cost);
    settle();
    return;
  }
  const double ratio = cost / costs[rung];
  follow_tail(rung, ratio);
  const double error = ratio - 1;
  const double limit = std::max(kStepNoise * noise, kLeastStep);
  const double size = error >= 0 ? error : -error;
  noise += kNoiseGain * (std::min(size, limit) * 1.25 - noise);
  if (size <= limit) {
    follow(rung, error);
  } else {
    judge(rung, ratio);
  }
  if (blamed_ != kNone && blamed_ != rung) {
    blamed_ = kNone;
  }
  for (std::size_t index = 0; index < corrections.size(); ++index) {
    if (index != rung && corrections[index] != 1.0) {
      corrections[index] = corrections[index] + kFading * (1 - corrections[index]);
    }
  }
  settle();
}

void CostEstimator::follow(std::size_t rung, double error) {
  if (error > 0) {
    run_ = run_ > 0 ? run_ + 1 : 1;
  } else if (error < 0) {
    run_ = run_ < 0 ? run_ - 1 : -1;
  }
  const double gain = kGain * (run_ >= 0 ? run_ : -run_);
  scale *= 1 + std::min(gain, kMostGain) * error;
  corrections[rung] *= 1 + kOwnGain * error;
  pending_[rung] = 0.0;
  odd_rung_ = kNone;
}

void CostEstimator::judge(std::size_t rung, double ratio) {
  run_ = 0;
  if (blamed_ != kNone && blamed_ != rung) {
    const double undone = ratio * blame_;
    if (1 - kSame < undone && undone < 1 + kSame) {
      scale /= blame_;
      corrections[blamed_] *= blame_;
      return;
    }
  }
  if (odd_rung_ != kNone && (ratio > 1) == (odd_ratio_ > 1)) {
    const double factor = nearer(ratio, odd_ratio_);
    scale *= factor;
    ++steps;
    if (odd_rung_ == rung) {
      blame_ = factor * (blamed_ == rung ? blame_ : 1.0);
      blamed_ = rung;
    } else {
      blamed_ = kNone;
    }
    odd_rung_ = kNone;
    std::fill(pending_.begin(), pending_.end(), 0.0);
    return;
  }
  const double before = pending_[rung];
  if (before > 0 && (ratio > 1) == (before > 1)) {
    corrections[rung] *= nearer(ratio, before);
    ++steps;
    pending_[rung] = 0.0;
    odd_rung_ = kNone;
    return;
  }
  pending_[rung] = ratio;
  odd_rung_ = rung;
  odd_ratio_ = ratio;
}

void CostEstimator::learn(std::size_t rung, double cost) {
  const double own = cost / scale;
  std::vector<double> found(ladder_.size());
  for (std::size_t index = 0; index < ladder_.size(); ++index) {
    found[index] = visits_[index] != 0 ? ladder_[index] : 0.0;
  }
  if (visits_[rung] == 0 || own < ladder_[rung]) {
    found[rung] = own;
  }
  ++visits_[rung];
  ladder_ = fitted(guesses_, found);
  known = true;
}

void CostEstimator::follow_tail(std::size_t rung, double ratio) {
  if (ratio > 1 + spreads_[rung] * stretch_) {
    stretch_ = std::min(stretch_ * up_, kMostTail);
  } else {
    stretch_ *= down_;
  }
}

void CostEstimator::settle() {
  costs.resize(ladder_.size());
  tails.resize(ladder_.size());
  for (std::size_t index = 0; index < ladder_.size(); ++index) {
    costs[index] = ladder_[index] * scale * corrections[index];
    tails[index] = costs[index] * (1 + spreads_[index] * stretch_);
  }
}

}  // namespace anydepth::control
