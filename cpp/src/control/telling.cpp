#include "control/telling.hpp"

#include "control/words.hpp"

namespace anydepth::control {
namespace {

constexpr double kWorthSaying = 0.05;

bool worth_saying(double factor) { return factor - 1 < -kWorthSaying || factor - 1 > kWorthSaying; }

std::string of_sensor(const Decision& made) {
  if (made.regulator == nullptr) {
    return "";
  }
  const std::string target = decimals(made.regulator->target) + " is to be held; ";
  if (!made.regulator->reading) {
    return "no sensor has said anything, " + target;
  }
  return std::string("the sensor ") + (made.silent ? "said last " : "says ") +
         decimals(*made.regulator->reading) + ", " + target;
}

std::string of_mean(const Decision& made) {
  const auto& costs = made.estimator.costs;
  const auto depth = [&](std::size_t rung) { return made.rungs[rung].depth; };
  const std::string target = decimals(made.target) + " ms";
  if (made.target < costs[made.floor]) {
    return "a mean of " + target + " is below what " + depth(made.floor) + " takes (" +
           decimals(costs[made.floor]) + " ms)";
  }
  if (made.target > costs[made.ceiling]) {
    return depth(made.ceiling) + " takes " + decimals(costs[made.ceiling]) +
           " ms, less than a mean of " + target;
  }
  const auto [lower, upper] = made.mean->pair;
  const double gap = costs[upper] - costs[lower];
  const double share = gap > 0 ? 100 * (made.mean->setpoint - costs[lower]) / gap : 0.0;
  return "calls are to take " + target + " on average: " + depth(lower) + " (" +
         decimals(costs[lower]) + " ms) and " + depth(upper) + " (" + decimals(costs[upper]) +
         " ms) alternate, " + decimals(share, 0) + "% of calls at the latter; " +
         decimals(made.mean->debt) + " ms owed";
}

std::string of_budget(const Decision& made, double budget) {
  const auto& tails = made.estimator.tails;
  const std::size_t rung = *made.rung;
  const std::string here =
      std::to_string(made.percentile) + "% of calls take up to " + decimals(tails[rung]) + " ms";
  if (rung == made.floor && tails[rung] > budget) {
    return here + ", no rung meets " + decimals(budget) + " ms";
  }
  if (rung >= made.ceiling) {
    return here + ", the deepest rung meets " + decimals(budget) + " ms";
  }
  return here + ", within " + decimals(budget) + " ms; at " + made.rungs[rung + 1].depth +
         " it is up to " + decimals(tails[rung + 1]) + " ms";
}

std::string of_deadline(const Decision& made) {
  const std::string reason = of_budget(made, made.target);
  if (made.deadline->waiting == 0 || *made.rung >= made.ceiling) {
    return reason;
  }
  return reason + " (would have met it for " + std::to_string(made.deadline->waiting) + " calls)";
}

std::string of_costs(const Decision& made) {
  std::string text;
  if (worth_saying(made.estimator.scale)) {
    text += "; all calls take " + decimals(made.estimator.scale) + " times what the ladder says";
  }
  const double own = made.estimator.corrections[*made.rung];
  if (worth_saying(own)) {
    text += "; " + made.rungs[*made.rung].depth + " takes " + decimals(own) + " times that";
  }
  return text;
}

}  // namespace

std::string why(const Decision& made) {
  if (!made.rung) {
    return "no depth was chosen yet";
  }
  const std::string depth = made.rungs[*made.rung].depth + ": ";
  if (!made.estimator.known) {
    return depth + "what calls take is not known yet, so the first ones run at the floor";
  }
  const std::string reason = made.budget              ? of_budget(made, *made.budget)
                             : made.mean != nullptr ? of_mean(made)
                                                    : of_deadline(made);
  return depth + of_sensor(made) + reason + of_costs(made);
}

}  // namespace anydepth::control
