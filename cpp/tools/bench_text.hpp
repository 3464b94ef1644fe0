/// \file
/// Text made as printf does.
#pragma once

#include <cstdio>
#include <string>

namespace bench {

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  const auto size = std::snprintf(nullptr, 0, pattern, values...);
  std::string text(static_cast<std::size_t>(size < 0 ? 0 : size), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, values...);
  return text;
}

}  // namespace bench
