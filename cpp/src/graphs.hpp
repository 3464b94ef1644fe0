/// \file
/// What graphs and engines say of themselves, held against the manifest before they are run.
#pragma once

#include <filesystem>
#include <string>

#include "anydepth/bundle.hpp"
#include "anydepth/manifest.hpp"
#include "runtimes/engine.hpp"

namespace anydepth {

/// The path of an artifact that is about to be run; with `check` its bytes are compared with the
/// manifest. What graphs say of themselves always is. Throws BundleError, with what both say, where
/// they differ.
std::filesystem::path graph_file(const Bundle& bundle, const Artifact& artifact, bool check);

/// The same of inputs and outputs of an opened engine, of pieces: those of a whole chain, where its
/// runtime tells them. `name` is what to call it.
void check_engine(const std::string& name, const Engine& engine, const Artifact& artifact,
                  const Manifest& manifest);

}  // namespace anydepth
