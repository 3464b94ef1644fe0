#include "control/rungs.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>

#include "anydepth/errors.hpp"
#include "control/words.hpp"

namespace anydepth::control {
namespace {

void check_positive(const Rung& rung, const char* name, std::optional<double> value) {
  if (value && !(std::isfinite(*value) && *value > 0)) {
    throw UsageError("rung " + rung.depth + " has " + name + " = " + python_number(*value) +
                     "; expected a positive number");
  }
}

}  // namespace

std::optional<double> tail(const Rung& rung, int percentile) {
  const auto value = percentile == 99 ? rung.p99 : rung.p95;
  if (!value) {
    return std::nullopt;
  }
  return std::max(0.0, *value / rung.milliseconds - 1);
}

void check_rungs(const std::vector<Rung>& rungs) {
  if (rungs.empty()) {
    throw UsageError("a controller needs at least one rung; none was given");
  }
  std::vector<std::string> texts;
  for (const auto& rung : rungs) {
    texts.push_back(rung.depth);
  }
  if (std::set<std::string>(texts.begin(), texts.end()).size() != texts.size()) {
    throw UsageError("a ladder names each depth once; found: " + shorten(texts, 12));
  }
  if (std::any_of(rungs.begin(), rungs.end(),
                  [&](const Rung& rung) { return rung.guessed != rungs[0].guessed; })) {
    throw UsageError("the costs of a ladder are all measured or all guessed; found both");
  }
  for (const auto& rung : rungs) {
    check_positive(rung, "milliseconds", rung.milliseconds);
    check_positive(rung, "p95", rung.p95);
    check_positive(rung, "p99", rung.p99);
  }
}

std::vector<double> fitted(const std::vector<double>& guesses, const std::vector<double>& known) {
  std::vector<std::size_t> places;
  for (std::size_t index = 0; index < known.size(); ++index) {
    if (known[index] > 0) {
      places.push_back(index);
    }
  }
  std::vector<double> costs = known;
  for (std::size_t index = 0; index < guesses.size(); ++index) {
    const double guess = guesses[index];
    if (known[index] > 0) {
      continue;
    }
    if (places.size() == 1) {
      costs[index] = known[places[0]] * guess / guesses[places[0]];
      continue;
    }
    auto near = places;
    std::stable_sort(near.begin(), near.end(), [&](std::size_t one, std::size_t other) {
      return std::abs(guesses[one] - guess) < std::abs(guesses[other] - guess);
    });
    const std::size_t first = near[0];
    const std::size_t second = near[1];
    const double run = guesses[second] - guesses[first];
    const double slope = run != 0 ? (known[second] - known[first]) / run : 0.0;
    std::optional<double> least;
    for (const std::size_t place : places) {
      if (guesses[place] <= guess) {
        least = std::max(least.value_or(known[place]), known[place]);
      }
    }
    costs[index] =
        std::max(least.value_or(0.1 * known[first]), known[first] + slope * (guess - guesses[first]));
  }
  return costs;
}

}  // namespace anydepth::control
