/// \file
/// Depth on autopilot: which depth the next call gets, so that what calls take keeps to a target.
/// The same decisions on the same calls as the Python package's, to the last bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/detections.hpp"
#include "anydepth/export.hpp"
#include "anydepth/image.hpp"
#include "anydepth/tensor.hpp"

namespace anydepth {

class Session;
struct Manifest;

/// A depth and what one call at it takes.
struct Rung {
  std::string depth;
  /// The median of a call; where `guessed`, only its cost beside those of the other rungs.
  double milliseconds = 0;
  /// Percentiles of a call in milliseconds, where somebody measured them.
  std::optional<double> p95;
  std::optional<double> p99;
  /// Whether `milliseconds` has a unit that nobody knows (multiply-adds).
  bool guessed = false;
};

/// The rungs of a bundle's ladder, their costs guessed from multiply-adds.
ANYDEPTH_EXPORT std::vector<Rung> guessed_rungs(const Manifest& manifest);

/// What to hold, and how.
struct PilotOptions {
  /// One of these three: milliseconds of a call; calls a second; what push() says is held at, the
  /// deeper calls are the larger (watts, the length of a queue).
  std::optional<double> target_ms;
  std::optional<double> fps;
  std::optional<double> target;
  /// `mean`: of calls. `deadline`: `percentile` of calls, 95 or 99, meet it.
  std::string policy = "mean";
  int percentile = 95;
  /// Depths that are not left; by default the ends of the ladder.
  std::optional<std::string> floor;
  std::optional<std::string> ceiling;
  /// Whether a target that no rung meets, or that every rung meets, is refused.
  bool strict = false;
};

/// Calls of one rung.
struct RungCounter {
  std::string depth;
  std::uint64_t calls = 0;
  double total_ms = 0;
};

/// What was called so far. `missed`: calls that took longer than their deadline; of the policy
/// `mean`, calls made while the target was below what the floor takes.
struct PilotCounters {
  std::uint64_t calls = 0;
  std::uint64_t missed = 0;
  std::uint64_t changes = 0;
  std::vector<RungCounter> rungs;
};

/// Says at which depth the next call runs, and is told what it took. May be called from several
/// threads at once. Copies are cheap and are one and the same pilot.
///
///     anydepth::PilotOptions options;
///     options.target_ms = 25;
///     const anydepth::Pilot pilot(anydepth::guessed_rungs(bundle.manifest()), options);
///     auto found = pilot.run(session, images);
class ANYDEPTH_EXPORT Pilot {
 public:
  /// `rungs`: from base to super. Throws UsageError.
  Pilot(const std::vector<Rung>& rungs, const PilotOptions& options);

  /// The depth of the next call. `budget_ms`: what this call alone may take, whatever the target.
  std::string choose(std::optional<double> budget_ms = std::nullopt) const;

  /// A call took so long, at the depth chosen last. Throws UsageError for what is no time.
  void report(double milliseconds) const;
  /// The same, at `depth`, which several threads have to name; `budget_ms`: what it was allowed.
  void report(double milliseconds, const std::string& depth,
              std::optional<double> budget_ms = std::nullopt) const;

  /// Runs `images` at the depth that is chosen, and reports how long it took. Throws what
  /// Session::run throws, and then reports nothing.
  Detections run(const Session& session, const TensorView& images) const;
  Detections run(const Session& session, const std::vector<ImageView>& images) const;

  /// What an own sensor says. Throws UsageError without PilotOptions::target.
  void push(double reading) const;

  /// What calls are to take from now on. Throws UsageError for what is no time.
  void retarget(double target_ms) const;
  double target_ms() const;

  /// Why the last call got its depth, in one line.
  std::string explain() const;
  PilotCounters counters() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace anydepth
