/// \file
/// Bilinear resizing of 8-bit pictures, row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "anydepth/image.hpp"

namespace anydepth {

/// Takes one row of the result: its number, and 3 * width bytes that are valid until the next call.
using TakeRow = std::function<void(std::size_t row, const std::uint8_t* pixels)>;

/// Averages over all pixels where it shrinks (antialiasing), as Pillow does, to the last bit: one
/// pass along rows, one along columns, each rounded to 8 bits.
void resize_averaging(const ImageView& image, std::size_t height, std::size_t width,
                      const TakeRow& take);

/// Samples, as OpenCV does: of a picture that shrinks, most pixels are not looked at. Equal to
/// `anydepth_deploy.pictures.resize.resize_bilinear`.
void resize_sampling(const ImageView& image, std::size_t height, std::size_t width,
                     const TakeRow& take);

}  // namespace anydepth
