/// \file
/// Which of a bundle's measured ladders holds for a session.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"
#include "anydepth/session.hpp"

namespace anydepth {

/// The processor's model; of an Arm board, which does not tell, that of the board. `root` is for
/// tests.
std::string processor_name(const std::filesystem::path& root = "/");

/// The newest ladder of these very artifacts, by their hashes, that was measured on this device
/// with the runtime and precision of `options`; of several, one with as many threads first.
std::optional<MeasuredLadder> find_measured(const Manifest& manifest,
                                            const std::vector<Artifact>& artifacts,
                                            const SessionOptions& options);

}  // namespace anydepth
