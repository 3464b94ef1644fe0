#include <cstdint>
#include <vector>

#include "../tools/bench_statistics.hpp"
#include "../tools/bench_verdict.hpp"
#include "probe.hpp"

namespace probe {
namespace {

Json estimate(const bench::Estimate& found) {
  Json interval = nullptr;
  if (found.interval) {
    interval = {found.interval->first, found.interval->second};
  }
  return {{"value", found.value}, {"interval", interval}};
}

/// `samples`: a file of nanoseconds, int64.
Json summarise(const Json& given) {
  const auto samples = read_array<std::int64_t>(given.at("samples"));
  const auto found = bench::summarise(samples, given.at("percents").get<std::vector<double>>());
  Json percentiles = Json::array();
  for (const auto& [percent, value] : found.percentiles) {
    percentiles.push_back({percent, value ? Json(*value) : Json(nullptr)});
  }
  const auto verdict = bench::judge_latency({samples.begin(), samples.end()}, found);
  return {{"count", found.count},
          {"minimum_ms", found.minimum},
          {"mean_ms", found.mean},
          {"deviation_ms", found.deviation ? Json(*found.deviation) : Json(nullptr)},
          {"median_ms", estimate(found.median)},
          {"maximum_ms", found.maximum},
          {"percentiles_ms", percentiles},
          {"verdict", {{"word", verdict.word}, {"reasons", verdict.reasons}}}};
}

Json ratio(const Json& given) {
  return estimate(bench::ratio_of_medians(read_array<double>(given.at("numerator")),
                                          read_array<double>(given.at("denominator")),
                                          given.at("paired")));
}

}  // namespace

void add_bench(Calls& calls) {
  calls["summarise"] = summarise;
  calls["ratio"] = ratio;
}

}  // namespace probe
