/// \file
/// Numbers as Python writes them.
#pragma once

#include <string>

namespace anydepth::control {

/// With so many digits behind the point.
std::string decimals(double value, int digits = 2);

/// The shortest text that means `value`, as Python prints a float.
std::string python_number(double value);

}  // namespace anydepth::control
