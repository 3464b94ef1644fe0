/// \file
/// What every backend returns: detections as three arrays.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "anydepth/export.hpp"

namespace anydepth {

/// Label of a place that holds no detection; its score and box are zeros.
inline constexpr std::int64_t kNothing = -1;

/// One object.
struct Detection {
  std::int64_t label = kNothing;
  float score = 0;
  /// x1, y1, x2, y2.
  std::array<float, 4> box{};
};

/// Detections of a batch, best first in each image: `labels` [N, K], `boxes` [N, K, 4] (x1, y1, x2,
/// y2 in pixels of the network input), `scores` [N, K] in 0..1, row-major.
struct ANYDEPTH_EXPORT Detections {
  std::size_t batch = 0;
  std::size_t places = 0;
  std::vector<std::int64_t> labels;
  std::vector<float> boxes;
  std::vector<float> scores;

  /// The detections of one image with a score of at least `threshold`; empty places are left out.
  /// Throws InputError for an image that the batch does not have.
  std::vector<Detection> image(std::size_t index, float threshold = 0) const;
};

}  // namespace anydepth
