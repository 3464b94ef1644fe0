/// \file
/// What is refused before an engine is loaded: TensorRT answers most of it with a crash, or with a
/// message about its own code.
#pragma once

#include <filesystem>
#include <string>

#include "anydepth/manifest.hpp"

namespace anydepth {

/// Whether an engine was built for this device, called `device`, and this version of TensorRT.
/// Throws BundleError.
void check_engine(const std::filesystem::path& path, const EngineSpec& spec,
                  const std::string& device, const std::string& capability,
                  const std::string& version);

}  // namespace anydepth
