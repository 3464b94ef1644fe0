/// \file
/// Class-aware non-maximum suppression on the host.
#pragma once

#include <cstddef>

#include "anydepth/detections.hpp"
#include "anydepth/manifest.hpp"
#include "anydepth/tensor.hpp"

namespace anydepth {

/// Predictions float32 [N, 4 + classes, A] (cx, cy, w, h in input pixels, then scores) to the best
/// `max_detections` of all classes, after suppression. Exactly what ONNX's NonMaxSuppression
/// computes, in float32 and in the same order of operations. Throws InputError for another type or
/// shape.
Detections suppress(const TensorView& predictions, const Suppression& rule,
                    std::size_t max_detections);

}  // namespace anydepth
