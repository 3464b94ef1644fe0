/// \file
/// What an ONNX file says of itself, read without its weights and before any runtime has it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtimes/engine.hpp"

namespace anydepth {

struct OnnxFile {
  /// The entries of this project by their keys.
  std::map<std::string, std::string> metadata;
  std::vector<GraphPort> inputs;
  std::vector<GraphPort> outputs;
  /// Tensors that hold the raw outputs, by name, where the file describes them.
  std::map<std::string, GraphPort> tensors;
};

/// ONNX metadata: public names of the raw outputs and the tensors that hold them, in JSON.
inline constexpr const char* kRawMetadata = "anydepth.raw_outputs";

/// Reads a file. Throws BundleError for one that is no whole ONNX graph, and for one with weights
/// in other files, which nobody hashes.
OnnxFile read_onnx_file(const std::filesystem::path& path);

/// The first `most` code points of a text.
std::string first_letters(const std::string& text, std::size_t most);

}  // namespace anydepth
