/// \file
/// The manifest as it is written: every field read and checked by itself, none against another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"
#include "json_reader.hpp"

namespace anydepth {

/// One row of the table that the gated graph's `depth` input counts.
struct DepthRow {
  std::int64_t index = 0;
  std::string depth;
  std::optional<std::int64_t> level;
  std::int64_t macs = 0;
};

/// An artifact, and what only the checks look at.
struct ArtifactFields {
  Artifact artifact;
  std::optional<std::int64_t> row;
};

struct ManifestFields {
  std::string tool_version;
  std::string source_file;
  std::string source_sha256;
  std::string family;
  std::string config;
  std::vector<std::string> classes;
  Preprocess preprocess;
  std::vector<Gate> gates;
  std::vector<int> base;
  std::vector<std::string> ladder;
  std::vector<DepthRow> depths;
  Names raw_outputs;
  std::optional<Suppression> suppression;
  std::size_t max_detections = 0;
  std::vector<ArtifactFields> artifacts;
  std::vector<MeasuredLadder> measured;
};

/// Throws InvalidJson for a field that is missing, of the wrong type or out of range. The places of
/// unknown fields go to `unknown`; without it, they are refused, too.
ManifestFields read_fields(const Json& manifest, std::vector<std::string>* unknown = nullptr);

}  // namespace anydepth
