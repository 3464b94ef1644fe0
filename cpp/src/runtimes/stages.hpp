/// \file
/// The pieces of a network, opened; a chain of them for every depth.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "anydepth/depth.hpp"
#include "engine.hpp"

namespace anydepth {

/// A piece of a chain and how to open it.
struct Link {
  std::filesystem::path path;
  Artifact artifact;
};

/// Names of the pieces' files, and what the manifest says of each: what a Chain is made of.
std::vector<std::pair<std::string, StagePiece>> specs_of(const std::vector<Link>& links);

/// May be used from several threads.
class Stages {
 public:
  virtual ~Stages() = default;
  /// The chain of a depth as one engine, its pieces opened. Throws BundleError for a chain that
  /// does not hold the depth or a piece that does not fit its description, and what opening throws.
  virtual EnginePtr at(const Depth& depth) const = 0;
};

using StagesPtr = std::shared_ptr<const Stages>;

/// Pieces that any engine runs, and whose tensors pass through memory of the host. A piece is
/// opened when a depth first needs it, once, and kept. Throws BundleError for pieces that are not
/// the whole of one chain.
StagesPtr chain_on_host(const std::string& runtime, std::vector<Link> links,
                        const EngineOptions& options);

/// The same on one device and one stream; tensors between pieces stay there. Defined where the
/// build has TensorRT.
StagesPtr chain_tensorrt(std::vector<Link> links, const EngineOptions& options);

}  // namespace anydepth
