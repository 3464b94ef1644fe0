#include "anydepth/detections.hpp"

#include <algorithm>

#include "anydepth/errors.hpp"

namespace anydepth {

std::vector<Detection> Detections::image(std::size_t index, float threshold) const {
  if (index >= batch) {
    throw InputError("there is no image " + std::to_string(index) + " in a batch of " +
                     std::to_string(batch) + ": images are counted from 0");
  }
  std::vector<Detection> found;
  for (std::size_t place = index * places; place < (index + 1) * places; ++place) {
    if (scores[place] >= threshold && labels[place] != kNothing) {
      Detection detection{labels[place], scores[place], {}};
      std::copy_n(&boxes[4 * place], 4, detection.box.begin());
      found.push_back(detection);
    }
  }
  return found;
}

}  // namespace anydepth
