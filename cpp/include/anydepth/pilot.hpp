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

#include "anydepth/depth.hpp"
#include "anydepth/detections.hpp"
#include "anydepth/export.hpp"
#include "anydepth/image.hpp"
#include "anydepth/tensor.hpp"

namespace anydepth {

class Session;
struct Manifest;
struct MeasuredLadder;

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
/// The same of a table and multiply-adds by its rows.
ANYDEPTH_EXPORT std::vector<Rung> guessed_rungs(const DepthTable& table,
                                                const std::vector<std::uint64_t>& macs);

/// The rungs of a measured ladder. One of another device, or of calls with other numbers of images
/// than `batch`, is warned of.
ANYDEPTH_EXPORT std::vector<Rung> rungs_of(const MeasuredLadder& ladder, std::size_t batch = 1);

/// The rungs that a pilot of this session starts with: those of the ladder that was measured of its
/// artifacts on this device, or of the newest of another device, which is warned of; where nobody
/// measured one, those of the ladder in use, their costs guessed from multiply-adds.
ANYDEPTH_EXPORT std::vector<Rung> rungs_of(const Session& session, std::size_t batch = 1);

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
  /// Depths that are not left; by default the ends of the ladder. Of a pilot of a session any names
  /// of rungs (`base`, `level:2`).
  std::optional<std::string> floor;
  std::optional<std::string> ceiling;
  /// Whether a target that no rung meets, or that every rung meets, is refused.
  bool strict = false;
  /// Of a pilot of a session: images of a call, and whether each rung runs once when it is made, so
  /// that no first call is a slow one.
  std::size_t batch = 1;
  bool warm = true;
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
///     const anydepth::Pilot pilot(session, options);
///     auto found = pilot.run(images);
class ANYDEPTH_EXPORT Pilot {
 public:
  /// `rungs`: from base to super. Throws UsageError.
  Pilot(const std::vector<Rung>& rungs, const PilotOptions& options);

  /// Of a session, with the rungs that rungs_of() finds for it. Throws UsageError, also for rungs
  /// that the session cannot run, DepthError for a limit that is no depth, and what runs throw.
  Pilot(const Session& session, const PilotOptions& options);

  /// Of a session, with rungs of one's own.
  Pilot(const Session& session, const std::vector<Rung>& rungs, const PilotOptions& options);

  /// The depth of the next call. `budget_ms`: what this call alone may take, whatever the target.
  std::string choose(std::optional<double> budget_ms = std::nullopt) const;

  /// A call took so long, at the depth chosen last. Throws UsageError for what is no time.
  void report(double milliseconds) const;
  /// The same, at `depth`, which several threads have to name; `budget_ms`: what it was allowed.
  void report(double milliseconds, const std::string& depth,
              std::optional<double> budget_ms = std::nullopt) const;

  /// Runs `images` through the pilot's session at the depth that is chosen, and reports how long it
  /// took. Throws what Session::run throws, and then reports nothing; UsageError without a session.
  Detections run(const TensorView& images) const;
  Detections run(const std::vector<ImageView>& images) const;

  /// The same through another session.
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
  const Session& session() const;

  class Impl;
  std::shared_ptr<Impl> impl_;
  std::shared_ptr<const Session> session_;
};

}  // namespace anydepth
