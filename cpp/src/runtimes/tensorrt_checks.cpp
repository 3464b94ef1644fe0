#include "tensorrt_checks.hpp"

#include <algorithm>
#include <sstream>
#include <vector>

#include "anydepth/errors.hpp"

namespace anydepth {
namespace {

std::vector<std::string> parts_of(const std::string& version) {
  std::vector<std::string> parts;
  std::istringstream text(version);
  for (std::string part; std::getline(text, part, '.') && parts.size() < 4;) {
    parts.push_back(part);
  }
  return parts;
}

}  // namespace

void check_engine(const std::filesystem::path& path, const EngineSpec& spec,
                  const std::string& device, const std::string& capability,
                  const std::string& version) {
  const auto& built_for = spec.capabilities;
  if (std::find(built_for.begin(), built_for.end(), capability) == built_for.end()) {
    throw BundleError(path.string() + " was built for " + shorten(built_for) + ", this device (" +
                      device + ") is " + capability + ": build it again for " + capability);
  }
  // TensorRT loads what exactly the same library built.
  const auto built = parts_of(spec.version);
  const auto here = parts_of(version);
  const auto common = std::min(built.size(), here.size());
  if (common < 2 ||
      !std::equal(built.begin(), built.begin() + static_cast<std::ptrdiff_t>(common),
                  here.begin())) {
    throw BundleError(path.string() + " was built with TensorRT " + spec.version +
                      ", installed is " + version +
                      ": build it again here, or install the version it was built with");
  }
}

}  // namespace anydepth
