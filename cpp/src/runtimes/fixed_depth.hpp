/// \file
/// A gated graph whose depth is a constant, its weights left in the file.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace anydepth {

/// The graph of a gated graph's file at `row` of its depth table, as a serialised model: one
/// constant instead of the input `depth`, and references into the file (ONNX's external data),
/// called `location` there, instead of large weights; all weights where that is empty. ONNX Runtime puts the branch of an If in its
/// place when the predicate is a constant. The file has been found whole by read_onnx_file().
/// Throws std::system_error where it cannot be read. `anydepth_deploy/runtimes/onnxruntime/
/// fixed_depth.py` does the same, byte for byte.
std::string fix_depth(const std::filesystem::path& path, std::size_t row,
                      const std::string& location);

/// What changes when a file is replaced or written to. Throws std::system_error where there is none.
std::string identity_of(const std::filesystem::path& path);

}  // namespace anydepth
