/// \file
/// The backends by name: which this build has, and opening artifacts with them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine.hpp"
#include "stages.hpp"

namespace anydepth {

/// Throws UsageError for a runtime that is unknown or not in this build, and says how to get it.
void check_runtime(const std::string& runtime);

/// Opens an artifact's file. Throws UsageError as check_runtime() and for a precision that the
/// runtime cannot compute in, and what the backend throws.
EnginePtr open_engine(const std::string& runtime, const std::filesystem::path& path,
                      const Artifact& artifact, const EngineOptions& options);

/// Chains the pieces of a network. Throws as open_engine() does.
StagesPtr open_stages(const std::string& runtime, std::vector<Link> links,
                      const EngineOptions& options);

/// The compute capability (`sm75`) of the device that `runtime`, one of engines, runs on here.
/// Throws DeviceError where there is none.
std::string device_capability(const std::string& runtime);

/// The name of that device. Throws as device_capability() does.
std::string device_name(const std::string& runtime);

// Each defined where the build has the backend.
std::string tensorrt_capability();
std::string tensorrt_device();
std::string onnxruntime_version();
std::string openvino_version();
std::string tensorrt_version();

}  // namespace anydepth
