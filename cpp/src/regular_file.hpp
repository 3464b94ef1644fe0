/// \file
/// Files that others name: regular ones, or what links lead to; nothing that never ends.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace anydepth {

/// What is there in the place of a file (`a folder`, `a pipe`); nothing for a file, and where there
/// is nothing.
std::optional<std::string> kind_of_file(const std::filesystem::path& path);

/// The advice of the Python package about what is no file: `it is a pipe, expected a file`.
std::string no_file(const std::string& kind);

}  // namespace anydepth
