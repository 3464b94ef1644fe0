/// \file
/// Which artifacts of a bundle one session runs, and whether they can be trusted.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"
#include "anydepth/session.hpp"

namespace anydepth {

/// What a session was asked for: the precision of the artifact, and what FP32 is computed in.
struct StoredPrecision {
  std::string artifact;
  std::string compute;
};

/// Throws UsageError for an unknown precision.
StoredPrecision stored_precision(const std::string& precision);

/// The compute capability (`sm75`) of the device that a runtime runs on here.
using DeviceCapability = std::function<std::string(const std::string& runtime)>;

/// The artifacts that one session will run: a gated graph, all static graphs, or the pieces of one
/// chain. `capability` is asked only where the artifacts are engines. Throws UsageError for an
/// unknown precision or runtime, BundleError when the bundle has no artifact of that kind, and what
/// `capability` throws.
std::vector<Artifact> choose_artifacts(const Manifest& manifest, const std::filesystem::path& path,
                                       const SessionOptions& options,
                                       const DeviceCapability& capability);

/// What `export` is to be told, beside a layout and depths, to make others like this graph:
/// ` --precision int8 --target openvino`; nothing for an FP32 one.
std::string export_words(const Artifact& artifact);

/// Throws UsageError for INT8 artifacts that `runtime` would compute something else with than they
/// are made for.
void check_targets(const std::vector<Artifact>& artifacts, const std::string& runtime);

/// Throws BundleError for an engine that failed its verification; warns (see on_warning()) of
/// engines that were never verified. Graphs that were not built for a device pass.
void check_trust(const std::vector<Artifact>& artifacts);

}  // namespace anydepth
