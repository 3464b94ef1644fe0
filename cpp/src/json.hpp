/// \file
/// JSON that nobody vouches for, as a tree of values; the library that parses it stays in json.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace anydepth {

struct Json;
using JsonList = std::vector<Json>;
/// In the order of the text; a key is there once.
using JsonMembers = std::vector<std::pair<std::string, Json>>;

/// Any value; nothing is null. Whole numbers beyond 64 bits are doubles.
struct Json {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, JsonList, JsonMembers>
      value;
};

/// Parses a text. Throws std::invalid_argument for what is not JSON in UTF-8, is nested too deep,
/// has too many values or a key twice.
Json parse_json(const std::string& text);

}  // namespace anydepth
