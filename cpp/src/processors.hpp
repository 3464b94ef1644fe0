/// \file
/// How many threads this process is allowed to keep busy.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

namespace anydepth {

/// Threads for one operator where nobody says, and the runtime's own choice would be too many: it
/// counts the cores of the machine, whatever a container's quota of time or the processors that the
/// process may run on. None where neither limits it. `root` and `allowed` (processors by number) are
/// for tests: the machine's own by default.
std::optional<int> limited_threads(const std::filesystem::path& root = "/",
                                   const std::optional<std::vector<int>>& allowed = std::nullopt);

}  // namespace anydepth
