/// \file
/// A bundle: a folder with a manifest and every artifact exported from one checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "anydepth/export.hpp"
#include "anydepth/manifest.hpp"
#include "anydepth/session.hpp"

namespace anydepth {

/// An opened bundle. Copies are cheap and share the manifest.
class ANYDEPTH_EXPORT Bundle {
 public:
  /// Reads the manifest in `folder`. Throws BundleError.
  static Bundle open(const std::filesystem::path& folder);

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return *manifest_; }
  const DepthTable& table() const { return manifest_->table; }

  /// The name of class `label`. Throws BundleError where the manifest has none.
  const std::string& class_name(std::int64_t label) const;

  /// The path of an artifact; with `check` its bytes are compared with the manifest.
  /// Throws BundleError when the file is missing or was altered.
  std::filesystem::path file(const Artifact& artifact, bool check = true) const;

  /// Opens artifacts for running. Throws BundleError, UsageError for an unknown runtime or
  /// precision or a backend this build does not have, and DeviceError.
  Session session(const SessionOptions& options = {}) const;

 private:
  Bundle(std::filesystem::path path, std::shared_ptr<const Manifest> manifest)
      : path_(std::move(path)), manifest_(std::move(manifest)) {}

  std::filesystem::path path_;
  std::shared_ptr<const Manifest> manifest_;
};

}  // namespace anydepth
