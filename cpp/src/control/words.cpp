#include "control/words.hpp"

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace anydepth::control {

std::string decimals(double value, int digits) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string python_number(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  std::array<char, 64> text{};
  int digits = 1;
  for (; digits <= 17; ++digits) {
    std::snprintf(text.data(), text.size(), "%.*e", digits - 1, value);
    if (std::strtod(text.data(), nullptr) == value) {
      break;
    }
  }
  const std::string scientific = text.data();
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
  if (exponent >= -4 && exponent < 16) {
    const int behind = digits - 1 - exponent;
    return decimals(value, behind > 1 ? behind : 1);
  }
  return scientific;
}

}  // namespace anydepth::control
