/// \file
/// Warnings, for whoever listens; see on_warning().
#pragma once

#include <string>

namespace anydepth {

void warn(const std::string& message);

}  // namespace anydepth
