/// \file
/// The machine, and the memory of this process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace bench {

/// The processor's name, as the system tells it; `unknown` where it does not.
std::string processor();
/// System, its version and the machine's kind.
std::string system_name();
std::optional<std::int64_t> total_memory();
unsigned int cores();

/// Bytes of this process in memory now, and the most at any time; absent where the system does not
/// tell.
std::optional<std::int64_t> resident_memory();
std::optional<std::int64_t> peak_memory();

/// The time now in UTC, ISO 8601 to the second.
std::string utc_now();

}  // namespace bench
