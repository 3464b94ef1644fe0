#include "suppression.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "anydepth/errors.hpp"

namespace anydepth {
namespace {

struct Box {
  float low[2];
  float high[2];
  float area;
};

/// As numpy does: what is not a number wins.
float smaller(float one, float other) { return one < other || std::isnan(one) ? one : other; }
float larger(float one, float other) { return one > other || std::isnan(one) ? one : other; }

/// A detection before the best are chosen.
struct Kept {
  float score;
  std::size_t label;
  std::size_t anchor;
};

/// The predictions of one image, [4 + classes, A].
class Image {
 public:
  Image(const float* predictions, std::size_t anchors) : values_(predictions), anchors_(anchors) {}

  /// x1, y1, x2, y2.
  std::array<float, 4> corners(std::size_t anchor) const {
    const float half_width = row(2)[anchor] * 0.5F;
    const float half_height = row(3)[anchor] * 0.5F;
    return {row(0)[anchor] - half_width, row(1)[anchor] - half_height, row(0)[anchor] + half_width,
            row(1)[anchor] + half_height};
  }

  Box box(std::size_t anchor) const {
    const auto [x1, y1, x2, y2] = corners(anchor);
    Box box{{smaller(x1, x2), smaller(y1, y2)}, {larger(x1, x2), larger(y1, y2)}, 0};
    box.area = (box.high[0] - box.low[0]) * (box.high[1] - box.low[1]);
    return box;
  }

  const float* scores(std::size_t label) const { return row(4 + label); }

 private:
  const float* row(std::size_t index) const { return values_ + index * anchors_; }

  const float* values_;
  std::size_t anchors_;
};

/// Whether intersection over union is above `limit`.
bool overlap(const Box& one, const Box& other, float limit) {
  const float width = smaller(one.high[0], other.high[0]) - larger(one.low[0], other.low[0]);
  const float height = smaller(one.high[1], other.high[1]) - larger(one.low[1], other.low[1]);
  if (!(width > 0 && height > 0)) {
    return false;
  }
  const float shared = width * height;
  const float all = one.area + other.area - shared;
  return shared > 0 && all > 0 && shared / all > limit;
}

/// The boxes of one class that survive, best first.
void keep(const Image& image, std::size_t label, std::size_t anchors, const Suppression& rule,
          std::size_t limit, std::vector<Kept>& found) {
  const float* scores = image.scores(label);
  const auto threshold = static_cast<float>(rule.score_threshold);
  const auto most = static_cast<float>(rule.iou_threshold);
  std::vector<std::size_t> order;
  for (std::size_t anchor = 0; anchor < anchors; ++anchor) {
    if (scores[anchor] > threshold) {
      order.push_back(anchor);
    }
  }
  // Stable: of equal scores the first one wins, as in ONNX Runtime.
  std::stable_sort(order.begin(), order.end(), [scores](std::size_t one, std::size_t other) {
    return scores[one] > scores[other];
  });
  std::vector<Box> kept;
  for (const std::size_t anchor : order) {
    if (kept.size() == limit) {
      break;
    }
    const Box box = image.box(anchor);
    if (std::none_of(kept.begin(), kept.end(),
                     [&](const Box& better) { return overlap(better, box, most); })) {
      kept.push_back(box);
      found.push_back({scores[anchor], label, anchor});
    }
  }
}

}  // namespace

Detections suppress(const TensorView& predictions, const Suppression& rule,
                    std::size_t max_detections) {
  const auto& shape = predictions.shape;
  if (predictions.type != Type::kFloat32 || shape.size() != 3 || shape[0] < 0 || shape[1] < 4 ||
      shape[2] < 0) {
    throw InputError("predictions must be float32 [N, 4 + classes, anchors]");
  }
  const auto batch = static_cast<std::size_t>(shape[0]);
  const auto rows = static_cast<std::size_t>(shape[1]);
  const auto anchors = static_cast<std::size_t>(shape[2]);
  const std::size_t classes = rows - 4;
  Detections found;
  found.batch = batch;
  found.places = std::min(max_detections, classes * anchors);
  found.labels.assign(batch * found.places, kNothing);
  found.scores.assign(batch * found.places, 0);
  found.boxes.assign(4 * batch * found.places, 0);
  for (std::size_t index = 0; index < batch; ++index) {
    const Image image(static_cast<const float*>(predictions.data) + index * rows * anchors,
                      anchors);
    std::vector<Kept> kept;
    for (std::size_t label = 0; label < classes; ++label) {
      keep(image, label, anchors, rule, max_detections, kept);
    }
    std::stable_sort(kept.begin(), kept.end(), [](const Kept& one, const Kept& other) {
      return one.score != other.score
                 ? one.score > other.score
                 : std::pair(one.label, one.anchor) < std::pair(other.label, other.anchor);
    });
    kept.resize(std::min(kept.size(), found.places));
    for (std::size_t place = 0; place < kept.size(); ++place) {
      const std::size_t at = index * found.places + place;
      found.labels[at] = static_cast<std::int64_t>(kept[place].label);
      found.scores[at] = kept[place].score;
      const auto corners = image.corners(kept[place].anchor);
      std::copy(corners.begin(), corners.end(), &found.boxes[4 * at]);
    }
  }
  return found;
}

}  // namespace anydepth
