/// \file
/// Versions of manifests, major and minor; manifest.py of the Python package says how to raise one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "json.hpp"

namespace anydepth {

/// A minor adds fields, which who knows less leaves out; all else raises the major.
struct ManifestVersion {
  std::int64_t major = 1;
  std::int64_t minor = 0;
};

/// The newest that this library knows.
constexpr ManifestVersion kKnownVersion{1, 3};

/// A version as it is written: a whole number, or text like `1.2` where the minor is not 0. None
/// for anything else.
std::optional<ManifestVersion> version_of(const Json& value);

/// As it is written: `1`, `1.2`.
std::string written_version(const ManifestVersion& version);

/// For people: `1.0`.
std::string version_text(const ManifestVersion& version);

/// The advice to use the version that wrote a manifest, by its number where it says one.
std::string made_it(const Json& manifest);

}  // namespace anydepth
