/// \file
/// Which of a bundle's measured ladders holds for a session.
#pragma once

#include <cstddef>
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

/// The processor or the GPU that `runtime` computes on here, as a measured ladder names it.
std::string device_of(const std::string& runtime);

/// The ladders that were measured of a session's artifacts with its runtime and precision.
struct Measured {
  /// On this device, the newest one; of several, one with as many threads first.
  std::optional<MeasuredLadder> here;
  /// On other devices, newest last.
  std::vector<MeasuredLadder> elsewhere;
};

/// The ladders of these very artifacts, by their hashes, with the runtime and precision of
/// `options`.
Measured find_measured(const Manifest& manifest, const std::vector<Artifact>& artifacts,
                       const SessionOptions& options);

}  // namespace anydepth
