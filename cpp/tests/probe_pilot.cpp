// Pilots that live through a trace.

#include "anydepth/bundle.hpp"
#include "anydepth/errors.hpp"
#include "anydepth/log.hpp"
#include "anydepth/pilot.hpp"
#include "anydepth/session.hpp"
#include "probe.hpp"

namespace probe {
namespace {

std::vector<anydepth::Rung> rungs_of(const Json& given) {
  std::vector<anydepth::Rung> rungs;
  for (const auto& item : given) {
    anydepth::Rung rung;
    rung.depth = item.at("depth");
    rung.milliseconds = item.at("milliseconds");
    rung.p95 = maybe<double>(item, "p95");
    rung.p99 = maybe<double>(item, "p99");
    rung.guessed = item.value("guessed", false);
    rungs.push_back(rung);
  }
  return rungs;
}

/// Of `rungs`, or of a session of the bundle in `folder`, with rungs of its own or with `rungs`.
anydepth::Pilot make(const Json& given, const anydepth::PilotOptions& options) {
  if (!given.contains("folder")) {
    return {rungs_of(given.at("rungs")), options};
  }
  auto wanted = session_options(given);
  wanted.threads = 1;
  const auto session =
      anydepth::Bundle::open(given.at("folder").get<std::string>()).session(wanted);
  return given.contains("rungs") ? anydepth::Pilot(session, rungs_of(given.at("rungs")), options)
                                 : anydepth::Pilot(session, options);
}

/// Per step of `trace`: {"target"?, "push"?, "budget"?, "costs": milliseconds by depth},
/// what is chosen and why. And what was counted, and said.
Json pilot(const Json& given) {
  Json heard = Json::array();
  anydepth::on_warning([&](const std::string& message) { heard.push_back(message); });
  anydepth::PilotOptions options;
  const Json& wanted = given.at("options");
  options.target_ms = maybe<double>(wanted, "target_ms");
  options.fps = maybe<double>(wanted, "fps");
  options.target = maybe<double>(wanted, "target");
  options.policy = wanted.value("policy", options.policy);
  options.percentile = wanted.value("percentile", options.percentile);
  options.floor = maybe<std::string>(wanted, "floor");
  options.ceiling = maybe<std::string>(wanted, "ceiling");
  options.strict = wanted.value("strict", false);
  options.batch = wanted.value("batch", options.batch);
  options.warm = wanted.value("warm", options.warm);
  Json depths = Json::array();
  Json reasons = Json::array();
  try {
    const anydepth::Pilot made = make(given, options);
    for (const auto& step : given.at("trace")) {
      if (const auto target = maybe<double>(step, "target")) {
        made.retarget(*target);
      }
      if (const auto reading = maybe<double>(step, "push")) {
        made.push(*reading);
      }
      const std::string depth = made.choose(maybe<double>(step, "budget"));
      reasons.push_back(made.explain());
      made.report(step.at("costs").at(depth));
      depths.push_back(depth);
    }
    const auto counted = made.counters();
    Json by_rung = Json::array();
    for (const auto& item : counted.rungs) {
      by_rung.push_back({item.depth, item.calls, item.total_ms});
    }
    anydepth::on_warning({});
    return {{"depths", depths},
            {"reasons", reasons},
            {"target", made.target_ms()},
            {"counters", {counted.calls, counted.missed, counted.changes, by_rung}},
            {"said", heard}};
  } catch (...) {
    anydepth::on_warning({});
    throw;
  }
}

/// How many calls are counted after one of `images` zeros [N, 3, H, W] through the pilot's own
/// session, where it has one, and the places that were found.
Json fly(const Json& given) {
  anydepth::PilotOptions options;
  options.target_ms = 1000;
  const auto made = make(given, options);
  const std::vector<std::int64_t> shape = given.at("images");
  anydepth::TensorView images;
  images.shape = shape;
  const std::vector<float> zeros(images.elements());
  images.data = zeros.data();
  const auto found = made.run(images);
  return {made.counters().calls, found.batch, found.places};
}

}  // namespace

void add_pilot(Calls& calls) {
  calls["pilot"] = pilot;
  calls["fly"] = fly;
}

}  // namespace probe
