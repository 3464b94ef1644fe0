/// \file
/// Pictures in, network input out; and boxes back to the picture. Equal to the Python package's to
/// the last pixel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "anydepth/budget.hpp"
#include "anydepth/export.hpp"

namespace anydepth {

/// A picture in memory that somebody else owns: RGB, 8 bits, `height` rows of `width` pixels.
struct ImageView {
  const std::uint8_t* data = nullptr;
  std::size_t height = 0;
  std::size_t width = 0;
  /// Bytes from one row to the next; 0: rows follow each other without a gap.
  std::size_t stride = 0;
};

/// How a picture becomes the input of the network; see the manifest's `preprocess`.
struct Preprocess {
  enum class Resize { kStretch, kLetterbox };

  std::size_t height = 0;
  std::size_t width = 0;
  Resize resize = Resize::kStretch;
  /// Whether shrinking averages over all pixels, as Pillow does, or samples, as OpenCV does.
  bool antialias = true;
  std::uint8_t padding = 114;
  double scale = 1.0 / 255.0;
  std::array<double, 3> mean{0, 0, 0};
  std::array<double, 3> std{1, 1, 1};
};

/// How a prepared picture maps back: `picture = (input - offset) * scale` per axis (x, y).
struct Geometry {
  std::array<double, 2> scale{1, 1};
  std::array<double, 2> offset{0, 0};
  std::size_t height = 0;
  std::size_t width = 0;

  /// Boxes (x1, y1, x2, y2), `count` of them, from input pixels to picture pixels, clipped to it;
  /// in place.
  ANYDEPTH_EXPORT void to_picture(float* boxes, std::size_t count) const;
};

/// One picture into float32 [3, height, width] at `out`. Throws ImageError for an empty picture,
/// and where it has, or resizing it takes, more than `max_pixels`.
ANYDEPTH_EXPORT Geometry prepare(const ImageView& image, const Preprocess& recipe, float* out,
                                 std::size_t max_pixels = kMaxPixels);

/// A prepared batch: float32 [N, 3, height, width], and each picture's way back.
struct Batch {
  std::vector<float> images;
  std::vector<Geometry> geometries;
};

/// Pictures of any sizes. Throws ImageError where there is none, and as prepare() does.
ANYDEPTH_EXPORT Batch prepare_batch(const std::vector<ImageView>& images, const Preprocess& recipe,
                                    std::size_t max_pixels = kMaxPixels);

}  // namespace anydepth
