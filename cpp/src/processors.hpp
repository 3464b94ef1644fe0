/// \file
/// How many threads this process is allowed to keep busy, and what its processor can do.
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

/// Whether this is an x86 processor without VNNI, whose instruction for 8-bit products adds pairs of
/// them in 16 bits that saturate; none for an x86 processor of which nothing is known.
std::optional<bool> lacks_vnni();

}  // namespace anydepth
