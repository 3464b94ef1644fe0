#include "anydepth/version.hpp"

namespace anydepth {

const char* version() { return ANYDEPTH_VERSION; }

}  // namespace anydepth
