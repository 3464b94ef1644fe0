/// \file
/// Ladders that a controller moves along; the twin of anydepth_deploy/control/rungs.py.
#pragma once

#include <vector>

#include "anydepth/pilot.hpp"

namespace anydepth::control {

/// How far a percentile is above the median, as a part of it.
std::optional<double> tail(const Rung& rung, int percentile);

/// Throws UsageError where `rungs` are no ladder.
void check_rungs(const std::vector<Rung>& rungs);

/// Costs of all rungs from those that are known (0: not yet), along their guesses: in proportion to
/// one, on the line through the two nearest of several.
std::vector<double> fitted(const std::vector<double>& guesses, const std::vector<double>& known);

}  // namespace anydepth::control
