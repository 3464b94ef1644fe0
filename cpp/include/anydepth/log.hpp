/// \file
/// Where warnings go.
#pragma once

#include <functional>
#include <string>

#include "anydepth/export.hpp"

namespace anydepth {

using WarningHook = std::function<void(const std::string& message)>;

/// Has `hook` take every warning of this library instead of the standard error stream, which gets
/// them by default; without a hook, the default is back. Calls of the hook do not overlap.
ANYDEPTH_EXPORT void on_warning(WarningHook hook);

}  // namespace anydepth
