/// \file
/// Whether measured figures can be relied on, by the rules of `anydepth-deploy bench`.
#pragma once

#include <string>
#include <vector>

#include "bench_statistics.hpp"

namespace bench {

/// `unstable`: latency moved. `unknown`: nothing of that was seen, but nothing was looked at that
/// could tell of throttling or of other programs. This program reads no sensors, so its verdict is
/// never `valid`.
struct Verdict {
  std::string word;
  std::vector<std::string> reasons;
};

/// What is true of every run of this program.
Verdict without_sensors();

/// Whether a latency stayed what it was; `took`: of each call, in the order they were made.
Verdict judge_latency(const std::vector<double>& took, const Latency& latency);

/// The worst word, with all reasons, each once.
Verdict worst(const std::vector<Verdict>& verdicts);

}  // namespace bench
