/// \file
/// `manifest.json`: what a bundle holds, validated and versioned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "anydepth/depth.hpp"
#include "anydepth/export.hpp"
#include "anydepth/image.hpp"

namespace anydepth {

/// Pairs of names, in the order the manifest has them.
using Names = std::vector<std::pair<std::string, std::string>>;

/// What happens between a head's predictions and detections.
struct Suppression {
  enum class Where { kGraph, kHost, kNone };
  Where where = Where::kGraph;
  double score_threshold = 0.001;
  double iou_threshold = 0.7;
};

/// A gate's setting that a piece asks for.
struct Condition {
  std::size_t gate = 0;
  int layer = 0;
  bool runs = true;

  ANYDEPTH_EXPORT bool holds(const Depth& depth) const;
};

/// One link of the chain that a network becomes in layout `stages`.
struct StagePiece {
  int order = 0;
  int total = 1;
  std::string stage;
  std::string variant;
  std::vector<Condition> when;
  /// Inputs of the graph by name, and the tensor of the flow each is fed with.
  Names reads;
  /// Outputs of the graph by name, and the tensor of the flow each sets.
  Names writes;

  ANYDEPTH_EXPORT bool runs(const Depth& depth) const;
};

/// What a built engine was built from, by and for.
struct EngineSpec {
  std::string source;
  std::string version;
  std::optional<std::string> device;
  std::vector<std::string> capabilities;
  std::size_t smallest_batch = 1;
  std::size_t typical_batch = 1;
  std::size_t largest_batch = 1;
  bool detections = true;
};

/// What comparing an engine with its graph has found.
struct Verification {
  std::string when;
  bool passed = false;
  std::string reference;
};

/// One file that a runtime can execute.
struct Artifact {
  std::string name;
  std::string file;
  std::string format;     ///< `onnx`, `tensorrt`, `tensorrt-rtx`
  std::string layout;     ///< `gated`, `set`, `stages`
  std::string precision;  ///< `fp32`, `fp16`, `int8`
  std::string weights;
  std::string deformable;
  /// What an INT8 graph was made for; none for other precisions.
  std::optional<std::string> target;
  std::optional<StagePiece> piece;
  std::optional<EngineSpec> engine;
  std::optional<Verification> verified;
  std::optional<std::string> depth;
  std::optional<std::size_t> row;
  bool raw = false;
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// One depth of a measured ladder: how long a call takes, and how good what it finds is.
struct MeasuredRung {
  std::string depth;
  /// The median.
  double milliseconds = 0;
  /// Percentiles in milliseconds; none of fewer calls than they need.
  std::optional<double> p95;
  std::optional<double> p99;
  /// In percent; -1 where the data has nothing to find.
  double score = -1;
};

/// What `ladder` found on one device: the depths worth having there, from base to super. It holds
/// for the artifacts with these hashes alone, computed as it says.
struct MeasuredLadder {
  std::string when;
  std::string device;
  std::string runtime;
  std::string precision;
  std::string layout;
  std::vector<std::string> artifacts;
  std::size_t batch = 1;
  /// Inside one operator; none: the runtime's own choice.
  std::optional<int> threads;
  std::uint64_t calls = 0;
  /// What the scores are: `ap`, or `agreement` with what super finds in unlabelled pictures.
  std::string measure;
  std::string data;
  std::string data_sha256;
  std::uint64_t pictures = 0;
  /// Of predicted times: the median error at depths that were not seen, in percent.
  std::optional<double> error;
  std::vector<MeasuredRung> rungs;
};

/// Everything a program needs to run a bundle without the code that made it.
struct Manifest {
  std::string tool_version;
  std::string source_file;
  std::string source_sha256;
  std::string family;
  std::string config;
  std::vector<std::string> classes;
  Preprocess preprocess;
  DepthTable table;
  /// Multiply-adds of one image, by row of the table.
  std::vector<std::uint64_t> macs;
  /// Public names of the heads' raw outputs, and the tensors of the graph that hold them.
  Names raw_outputs;
  std::optional<Suppression> suppression;
  std::size_t max_detections = 0;
  std::vector<Artifact> artifacts;
  /// Ladders that were measured, newest last. The one in use is that of `table`, on all devices.
  std::vector<MeasuredLadder> measured;
};

/// Reads and checks the manifest of a bundle's folder. Throws BundleError.
ANYDEPTH_EXPORT Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace anydepth
