/// \file
/// A result on the terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace bench {

/// Prints a table with a row for each depth, and what has to be said with it.
void show(const nlohmann::ordered_json& result);

}  // namespace bench
