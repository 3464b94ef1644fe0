/// \file
/// What every backend implements: one opened artifact.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"
#include "anydepth/tensor.hpp"

namespace anydepth {

struct EngineOptions {
  std::optional<int> threads;
  /// `fp32` or `bf16`: what FP32 graphs are computed in.
  std::string compute = "fp32";
  /// Rows of the depth table, for runtimes that do not check the row themselves.
  std::size_t rows = 0;
  /// How many depths of a gated graph stay compiled, where each is compiled by itself.
  std::optional<int> kept_depths;
  /// The row of `super`, for runtimes that compile a gated graph for each depth.
  std::size_t super = 0;
};

struct Feed {
  std::string name;
  TensorView value;
};

/// An input or output of a graph or an engine, as its file describes it.
struct GraphPort {
  std::string name;
  /// As NumPy calls it, empty where the file does not say.
  std::string dtype;
  /// None where it is not known; -1 where any number goes.
  std::optional<std::vector<std::int64_t>> shape;
};

struct GraphPorts {
  std::vector<GraphPort> inputs;
  std::vector<GraphPort> outputs;
};

/// One opened artifact; may be called from several threads.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual const std::vector<std::string>& inputs() const = 0;
  virtual const std::vector<std::string>& outputs() const = 0;
  /// Inputs and outputs as the file of an engine describes them; none for graphs, which are read
  /// before they are opened.
  virtual std::optional<GraphPorts> ports() const { return std::nullopt; }
  /// Executes once. Throws InputError where the run fails.
  virtual Tensors run(const std::vector<Feed>& feeds,
                      const std::vector<std::string>& outputs) const = 0;
  /// Makes a gated graph ready for the depth of this row, where that is not done by opening it.
  virtual void prepare(std::size_t) const {}
};

using EnginePtr = std::shared_ptr<const Engine>;

/// Opens an artifact's file. Throws BundleError for one that the runtime cannot load. Defined where
/// the build has the backend.
EnginePtr open_onnxruntime(const std::filesystem::path& path, const Artifact& artifact,
                           const EngineOptions& options);
EnginePtr open_openvino(const std::filesystem::path& path, const Artifact& artifact,
                        const EngineOptions& options);
EnginePtr open_tensorrt(const std::filesystem::path& path, const Artifact& artifact,
                        const EngineOptions& options);

}  // namespace anydepth
