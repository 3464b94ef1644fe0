// Pilots of sessions; Python's twins: anydepth_deploy/pilot/pilot.py, and the rungs of
// anydepth_deploy/bundle/measured.py.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/errors.hpp"
#include "anydepth/manifest.hpp"
#include "anydepth/pilot.hpp"
#include "anydepth/session.hpp"
#include "measured.hpp"
#include "warn.hpp"

namespace anydepth {
namespace {

constexpr const char* kMeasureHere = " Measure here: anydepth-deploy ladder BUNDLE";

/// `rungs`, where the session can run them. Throws UsageError, and DepthError for no depths.
const std::vector<Rung>& runnable(const Session& session, const std::vector<Rung>& rungs) {
  std::vector<std::string> has;
  for (const auto& depth : session.depths()) {
    has.push_back(depth.text);
  }
  std::vector<std::string> missing;
  for (const auto& rung : rungs) {
    const auto& text = session.table().find(rung.depth).text;
    if (std::find(has.begin(), has.end(), text) == has.end()) {
      missing.push_back(rung.depth);
    }
  }
  if (!missing.empty()) {
    std::sort(has.begin(), has.end());
    throw UsageError("this session cannot run " + shorten(missing) + ": give rungs that it has (" +
                     shorten(has, 12) + ")");
  }
  return rungs;
}

/// Limits by the texts of their depths.
PilotOptions named(const Session& session, PilotOptions options) {
  for (auto* limit : {&options.floor, &options.ceiling}) {
    if (*limit) {
      *limit = session.table().find(**limit).text;
    }
  }
  return options;
}

}  // namespace

std::vector<Rung> rungs_of(const MeasuredLadder& ladder, std::size_t batch) {
  const auto here = device_of(ladder.runtime);
  if (ladder.device != here) {
    warn("this ladder was measured on " + ladder.device + ", this is " + here +
         ": costs are learned from the calls." + kMeasureHere);
  }
  if (ladder.batch != batch) {
    warn("this ladder was measured with " + std::to_string(ladder.batch) +
         " image(s) a call, these have " + std::to_string(batch) +
         ": costs are learned from the calls." + kMeasureHere);
  }
  std::vector<Rung> rungs;
  for (const auto& item : ladder.rungs) {
    Rung rung;
    rung.depth = item.depth;
    rung.milliseconds = item.milliseconds;
    rung.p95 = item.p95;
    rung.p99 = item.p99;
    rungs.push_back(std::move(rung));
  }
  return rungs;
}

std::vector<Rung> rungs_of(const Session& session, std::size_t batch) {
  const auto& elsewhere = session.measured_elsewhere();
  if (session.measured_ladder()) {
    return rungs_of(*session.measured_ladder(), batch);
  }
  if (!elsewhere.empty()) {
    return rungs_of(elsewhere.back(), batch);
  }
  return guessed_rungs(session.table(), session.macs());
}

Pilot::Pilot(const Session& session, const PilotOptions& options)
    : Pilot(session, rungs_of(session, options.batch), options) {}

Pilot::Pilot(const Session& session, const std::vector<Rung>& rungs, const PilotOptions& options)
    : Pilot(runnable(session, rungs), named(session, options)) {
  session_ = std::make_shared<const Session>(session);
  if (options.warm) {
    for (const auto& rung : rungs) {
      session.warm(rung.depth, options.batch);
    }
  }
}

const Session& Pilot::session() const {
  if (!session_) {
    throw UsageError("this pilot has no session: name one in run(), or make the pilot of a session");
  }
  return *session_;
}

Detections Pilot::run(const TensorView& images) const { return run(session(), images); }

Detections Pilot::run(const std::vector<ImageView>& images) const {
  return run(session(), images);
}

}  // namespace anydepth
