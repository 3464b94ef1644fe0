#include "anydepth/pilot.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>
#include <set>
#include <utility>

#include "anydepth/errors.hpp"
#include "anydepth/manifest.hpp"
#include "anydepth/session.hpp"
#include "control/estimator.hpp"
#include "control/policies.hpp"
#include "control/rungs.hpp"
#include "control/telling.hpp"
#include "control/words.hpp"
#include "text.hpp"
#include "warn.hpp"

namespace anydepth {
namespace {

constexpr std::uint64_t kStale = 1000;
constexpr double kOdd = 2.0;
constexpr std::uint64_t kLook = 20;
constexpr int kShort = 10;

void check_positive(const char* name, std::optional<double> value) {
  if (value && !(std::isfinite(*value) && *value > 0)) {
    throw UsageError(std::string(name) + " is " + control::python_number(*value) +
                     "; expected a positive number");
  }
}

std::vector<std::string> depths_of(const std::vector<Rung>& rungs) {
  std::vector<std::string> texts;
  for (const auto& rung : rungs) {
    texts.push_back(rung.depth);
  }
  return texts;
}

/// Runs something, and says how many milliseconds it took.
template <typename Work>
double timed(const Work& work) {
  const auto began = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  return took.count();
}

}  // namespace

std::vector<Rung> guessed_rungs(const Manifest& manifest) {
  return guessed_rungs(manifest.table, manifest.macs);
}

std::vector<Rung> guessed_rungs(const DepthTable& table, const std::vector<std::uint64_t>& macs) {
  std::vector<Rung> rungs;
  for (const std::size_t row : table.ladder()) {
    Rung rung;
    rung.depth = table.rows()[row].text;
    rung.milliseconds = static_cast<double>(macs[row]);
    rung.guessed = true;
    rungs.push_back(std::move(rung));
  }
  return rungs;
}

class Pilot::Impl {
 public:
  Impl(const std::vector<Rung>& rungs, const PilotOptions& options)
      : rungs_(checked(rungs)),
        percentile_(checked(options).percentile),
        by_mean_(options.policy == "mean"),
        estimator_(rungs_, options.percentile),
        deadline_(rungs.size()),
        calls_(rungs.size()),
        totals_(rungs.size()) {
    floor_ = place("floor", options.floor, 0);
    ceiling_ = place("ceiling", options.ceiling, rungs_.size() - 1);
    if (floor_ > ceiling_) {
      throw UsageError("the floor " + options.floor.value_or("None") + " is above the ceiling " +
                       options.ceiling.value_or("None"));
    }
    if (options.target) {
      regulator_ = control::Regulator{*options.target, 0.0, std::nullopt, 0.0};
    } else {
      target_ = options.target_ms ? *options.target_ms : 1000 / *options.fps;
      if (options.strict) {
        check_reach();
      }
    }
  }

  std::string choose(std::optional<double> budget) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++chosen_;
    budget_ = budget;
    if (regulator_) {
      if (chosen_ - heard_ > kStale) {
        fail();
      }
      const double low = estimator_.costs[floor_];
      const double high = estimator_.costs[ceiling_];
      target_ = low + regulator_->position * (high - low);
    }
    std::size_t rung = floor_;
    if (estimator_.known) {
      rung = budget     ? control::deepest(estimator_.tails, *budget, floor_, ceiling_)
             : by_mean_ ? mean_.choose(estimator_, target_, floor_, ceiling_)
                        : deadline_.choose(estimator_, target_, floor_, ceiling_);
    }
    if (last_ && rung != *last_) {
      ++changes_;
    }
    last_ = rung;
    if (!budget && !regulator_) {
      say_reach();
    }
    return rungs_[rung].depth;
  }

  void report(double cost, const std::optional<std::string>& depth, std::optional<double> budget) {
    if (!(cost > 0 && std::isfinite(cost))) {
      throw UsageError("a call cannot take " + control::python_number(cost) +
                       " ms; expected a positive number of milliseconds");
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::optional<std::size_t> named = depth ? rung(*depth) : last_;
    if (!named) {
      throw UsageError("no depth was chosen yet: call choose() before report()");
    }
    const auto allowed = budget ? budget : budget_;
    const std::size_t here = *named;
    const bool known = estimator_.known;
    if (allowed || !by_mean_) {
      missed_ += cost > allowed.value_or(target_) ? 1 : 0;
    } else if (!regulator_) {
      missed_ += known && target_ < estimator_.costs[floor_] ? 1 : 0;
    }
    if (known && !allowed && by_mean_) {
      mean_.observe(estimator_.costs[here], cost);
    }
    estimator_.observe(here, cost);
    ++count_;
    ++calls_[here];
    totals_[here] += cost;
    if (count_ == kLook && !rungs_[0].guessed) {
      look();
    }
  }

  void push(double reading) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!regulator_) {
      throw UsageError("nothing is held by a sensor: give the controller a target");
    }
    if (!std::isfinite(reading)) {
      throw UsageError("a sensor cannot say " + control::python_number(reading) +
                       "; expected a number");
    }
    silent_ = false;
    heard_ = chosen_;
    regulator_->update(reading);
  }

  void retarget(double target) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (regulator_) {
      throw UsageError("what calls may take follows from a sensor here");
    }
    check_positive("target_ms", target);
    target_ = target;
  }

  double target_ms() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return target_;
  }

  std::string explain() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return control::why({rungs_, estimator_, by_mean_ ? &mean_ : nullptr,
                         by_mean_ ? nullptr : &deadline_, regulator_ ? &*regulator_ : nullptr,
                         last_, target_, budget_, floor_, ceiling_, percentile_, silent_});
  }

  PilotCounters counters() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    PilotCounters found{count_, missed_, changes_, {}};
    for (std::size_t index = 0; index < rungs_.size(); ++index) {
      found.rungs.push_back({rungs_[index].depth, calls_[index], totals_[index]});
    }
    return found;
  }

 private:
  static const std::vector<Rung>& checked(const std::vector<Rung>& rungs) {
    control::check_rungs(rungs);
    return rungs;
  }

  static const PilotOptions& checked(const PilotOptions& options) {
    std::vector<std::string> named;
    const std::pair<const char*, std::optional<double>> given[] = {
        {"target_ms", options.target_ms}, {"fps", options.fps}, {"target", options.target}};
    for (const auto& [name, value] : given) {
      if (value) {
        named.emplace_back(name);
      }
    }
    if (named.size() != 1) {
      throw UsageError("a controller has one of target_ms, fps and target; found " +
                       (named.empty() ? "none" : join(named, " and ")));
    }
    for (const auto& [name, value] : given) {
      check_positive(name, value);
    }
    if (options.policy != "mean" && options.policy != "deadline") {
      throw UsageError("unknown policy '" + options.policy + "': expected mean or deadline");
    }
    if (options.percentile != 95 && options.percentile != 99) {
      throw UsageError("percentile is " + std::to_string(options.percentile) +
                       "; expected 95 or 99");
    }
    if (options.target && options.policy != "mean") {
      throw UsageError("what a sensor says is held by the policy mean, not by a deadline");
    }
    return options;
  }

  std::size_t place(const char* name, const std::optional<std::string>& depth,
                    std::size_t otherwise) const {
    if (!depth) {
      return otherwise;
    }
    const auto found = find(*depth);
    if (found) {
      return *found;
    }
    if (*depth == "base" || *depth == "super") {
      return *depth == "base" ? 0 : rungs_.size() - 1;
    }
    throw UsageError(std::string("the ") + name + " " + *depth + " is no rung; expected one of " +
                     shorten(depths_of(rungs_), 12));
  }

  std::size_t rung(const std::string& depth) const {
    const auto found = find(depth);
    if (!found) {
      throw UsageError("depth " + depth + " is no rung; expected one of " +
                       shorten(depths_of(rungs_), 12));
    }
    return *found;
  }

  std::optional<std::size_t> find(const std::string& depth) const {
    const auto found = std::find_if(rungs_.begin(), rungs_.end(),
                                    [&](const Rung& item) { return item.depth == depth; });
    if (found == rungs_.end()) {
      return std::nullopt;
    }
    return static_cast<std::size_t>(found - rungs_.begin());
  }

  std::pair<double, double> reach() const {
    const auto& values = by_mean_ ? estimator_.costs : estimator_.tails;
    return {values[floor_], values[ceiling_]};
  }

  void check_reach() const {
    if (!estimator_.known) {
      throw UsageError(
          "strict needs costs that were measured: run 'anydepth-deploy ladder' first, or give "
          "rungs");
    }
    const auto [least, most] = reach();
    if (!(least <= target_ && target_ <= most)) {
      throw UsageError("a target of " + control::decimals(target_) + " ms is out of reach: " +
                       rungs_[floor_].depth + " takes " + control::decimals(least) + " ms, " +
                       rungs_[ceiling_].depth + " " + control::decimals(most) + " ms");
    }
  }

  void say_reach() {
    const auto [least, most] = reach();
    short_ = estimator_.known && target_ < least ? short_ + 1 : 0;
    if (short_ >= kShort) {
      say("reach", "a target of " + control::decimals(target_) + " ms is below what " +
                       rungs_[floor_].depth + " takes now (" + control::decimals(least) +
                       " ms): calls run there, and are counted as missed; " +
                       control::decimals(least) + " to " + control::decimals(most) +
                       " ms can be held");
    }
  }

  void look() {
    const double scale = estimator_.scale;
    if (!(1 / kOdd < scale && scale < kOdd)) {
      say("scale", "calls take " + control::decimals(scale) +
                       " times what this ladder says: it is of another device or other settings, "
                       "or something else is running; costs are learned from the calls. Measure "
                       "here: anydepth-deploy ladder BUNDLE");
    }
  }

  void fail() {
    silent_ = true;
    const auto& reading = regulator_->reading;
    say("sensor", "the sensor has stopped to answer (nothing was pushed); " +
                      (reading ? "calls go on as they were when it said " +
                                     control::decimals(*reading)
                               : "it never said anything: calls run at the floor"));
  }

  void say(const std::string& topic, const std::string& message) {
    if (said_.insert(topic).second) {
      warn(message);
    }
  }

  mutable std::mutex mutex_;
  std::vector<Rung> rungs_;
  int percentile_;
  bool by_mean_;
  control::CostEstimator estimator_;
  control::MeanPolicy mean_;
  control::DeadlinePolicy deadline_;
  std::optional<control::Regulator> regulator_;
  std::size_t floor_ = 0;
  std::size_t ceiling_ = 0;
  double target_ = 0.0;
  std::optional<std::size_t> last_;
  std::optional<double> budget_;
  std::uint64_t chosen_ = 0;
  std::uint64_t heard_ = 0;
  std::uint64_t count_ = 0;
  std::uint64_t missed_ = 0;
  std::uint64_t changes_ = 0;
  std::vector<std::uint64_t> calls_;
  std::vector<double> totals_;
  int short_ = 0;
  bool silent_ = false;
  std::set<std::string> said_;
};

Pilot::Pilot(const std::vector<Rung>& rungs, const PilotOptions& options)
    : impl_(std::make_shared<Impl>(rungs, options)) {}

std::string Pilot::choose(std::optional<double> budget_ms) const {
  return impl_->choose(budget_ms);
}

void Pilot::report(double milliseconds) const {
  impl_->report(milliseconds, std::nullopt, std::nullopt);
}

void Pilot::report(double milliseconds, const std::string& depth,
                   std::optional<double> budget_ms) const {
  impl_->report(milliseconds, depth, budget_ms);
}

Detections Pilot::run(const Session& session, const TensorView& images) const {
  const std::string depth = choose();
  Detections found;
  const double took = timed([&] { found = session.run(images, depth); });
  report(took, depth);
  return found;
}

Detections Pilot::run(const Session& session, const std::vector<ImageView>& images) const {
  const std::string depth = choose();
  Detections found;
  const double took = timed([&] { found = session.run(images, depth); });
  report(took, depth);
  return found;
}

void Pilot::push(double reading) const { impl_->push(reading); }

void Pilot::retarget(double target_ms) const { impl_->retarget(target_ms); }

double Pilot::target_ms() const { return impl_->target_ms(); }

std::string Pilot::explain() const { return impl_->explain(); }

PilotCounters Pilot::counters() const { return impl_->counters(); }

}  // namespace anydepth
