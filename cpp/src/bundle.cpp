#include "anydepth/bundle.hpp"

#include <system_error>
#include <utility>

#include "anydepth/errors.hpp"
#include "sha256.hpp"

namespace anydepth {

Bundle Bundle::open(const std::filesystem::path& folder) {
  return {folder, std::make_shared<const Manifest>(read_manifest(folder))};
}

const std::string& Bundle::class_name(std::int64_t label) const {
  const auto& classes = manifest_->classes;
  if (label < 0 || static_cast<std::uint64_t>(label) >= classes.size()) {
    throw BundleError("bundle " + path_.string() + ": its graphs find the label " +
                      std::to_string(label) + ", its manifest names " +
                      std::to_string(classes.size()) +
                      " classes, counted from 0: export it again");
  }
  return classes[static_cast<std::size_t>(label)];
}

std::filesystem::path Bundle::file(const Artifact& artifact, bool check) const {
  auto path = path_ / artifact.file;
  const std::string bundle = "bundle " + path_.string() + ": ";
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    throw BundleError(bundle + "the artifact " + artifact.file + " is missing; export it again");
  }
  const auto size = std::filesystem::file_size(path, error);
  if (error || size != artifact.bytes) {
    throw BundleError(bundle + artifact.file + " has " + std::to_string(error ? 0 : size) +
                      " bytes, the manifest says " + std::to_string(artifact.bytes) +
                      "; the file was altered or cut short: export it again");
  }
  if (check) {
    const std::string digest = file_sha256(path);
    if (digest != artifact.sha256) {
      throw BundleError(bundle + artifact.file + " was altered (sha256 " + digest.substr(0, 12) +
                        "…, the manifest says " + artifact.sha256.substr(0, 12) +
                        "…): export it again");
    }
  }
  return path;
}

}  // namespace anydepth
