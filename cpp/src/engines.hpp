/// \file
/// Finds the engine for a depth, and what to feed it beside the images.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "anydepth/bundle.hpp"
#include "anydepth/manifest.hpp"
#include "runtimes/engine.hpp"

namespace anydepth {

/// An engine, and whether it takes the row of the depth as an input.
struct Located {
  EnginePtr engine;
  bool takes_row = false;
};

/// May be used from several threads.
class Engines {
 public:
  virtual ~Engines() = default;
  /// The engine of a row of the table, opened where it is not yet.
  virtual Located at(std::size_t row) const = 0;
  /// The rows that there are engines for.
  virtual std::vector<std::size_t> rows() const = 0;
};

using EnginesPtr = std::unique_ptr<const Engines>;

/// A gated graph, static graphs or pieces, as the layout of `artifacts` says. With `check` files
/// are compared with the manifest. Throws BundleError and what runtimes throw.
EnginesPtr open_engines(const Bundle& bundle, const std::vector<Artifact>& artifacts,
                        const std::string& runtime, const EngineOptions& options, bool check);

}  // namespace anydepth
