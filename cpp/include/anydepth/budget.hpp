/// \file
/// How many pixels a picture may have, and what resizing makes of it on the way. The same numbers
/// and words as the Python package's.
#pragma once

#include <cstddef>
#include <string>

#include "anydepth/export.hpp"

namespace anydepth {

struct Preprocess;

/// The budget unless told otherwise: what Pillow takes as suspicious, 2^30 / 4 / 3.
constexpr std::size_t kMaxPixels = 89478485;

/// Throws ImageError for a picture of more than `max_pixels` pixels. `name`: what it is called in
/// the message. For decoders: call it with what a header says, before anything is allocated.
ANYDEPTH_EXPORT void check_picture(std::size_t height, std::size_t width, std::size_t max_pixels,
                                   const std::string& name = "a picture");

/// The same, and for a picture that cannot be resized as `recipe` says within `max_pixels`.
/// prepare() does that; called with the name of a file, it names it.
ANYDEPTH_EXPORT void check_picture(std::size_t height, std::size_t width, const Preprocess& recipe,
                                   std::size_t max_pixels, const std::string& name = "a picture");

}  // namespace anydepth
