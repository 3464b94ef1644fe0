/// \file
/// Which version of the library a program was compiled against, and which one it runs.
#pragma once

#include "anydepth/export.hpp"

#define ANYDEPTH_VERSION_MAJOR 0
#define ANYDEPTH_VERSION_MINOR 2
#define ANYDEPTH_VERSION_PATCH 0

/// For comparisons by the preprocessor: `#if ANYDEPTH_VERSION_NUMBER >= 200`.
#define ANYDEPTH_VERSION_NUMBER \
  (ANYDEPTH_VERSION_MAJOR * 10000 + ANYDEPTH_VERSION_MINOR * 100 + ANYDEPTH_VERSION_PATCH)

#define ANYDEPTH_QUOTED_(text) #text
#define ANYDEPTH_QUOTED(text) ANYDEPTH_QUOTED_(text)

/// As text: "0.2.0".
#define ANYDEPTH_VERSION                  \
  ANYDEPTH_QUOTED(ANYDEPTH_VERSION_MAJOR) \
  "." ANYDEPTH_QUOTED(ANYDEPTH_VERSION_MINOR) "." ANYDEPTH_QUOTED(ANYDEPTH_VERSION_PATCH)

namespace anydepth {

/// The version of the library that is linked, as text; `ANYDEPTH_VERSION` is that of the headers.
ANYDEPTH_EXPORT const char* version();

}  // namespace anydepth
