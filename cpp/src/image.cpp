#include "anydepth/image.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "anydepth/errors.hpp"
#include "resize.hpp"

namespace anydepth {
namespace {

constexpr std::size_t kChannels = 3;

/// What each value of a pixel becomes, by channel: there are only 256 of them.
using Values = std::array<std::array<float, 256>, kChannels>;

Values make_values(const Preprocess& recipe) {
  const bool plain =
      std::all_of(recipe.mean.begin(), recipe.mean.end(),
                  [](double value) { return value == 0; }) &&
      std::all_of(recipe.std.begin(), recipe.std.end(), [](double value) { return value == 1; });
  Values values;
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    for (std::size_t pixel = 0; pixel < 256; ++pixel) {
      float value = static_cast<float>(pixel) * static_cast<float>(recipe.scale);
      if (!plain) {
        value = (value - static_cast<float>(recipe.mean[channel])) /
                static_cast<float>(recipe.std[channel]);
      }
      values[channel][pixel] = value;
    }
  }
  return values;
}

/// What the weights of a row or column that is averaged over take in Python, in pixels.
constexpr std::size_t kWeights = 4;

/// Where the picture lies in the network's input.
struct Place {
  std::size_t top = 0;
  std::size_t left = 0;
  std::size_t height = 0;
  std::size_t width = 0;
};

Place place_of(std::size_t rows, std::size_t columns, const Preprocess& recipe) {
  Place place{0, 0, recipe.height, recipe.width};
  if (recipe.resize == Preprocess::Resize::kLetterbox) {
    const auto height = static_cast<double>(rows);
    const auto width = static_cast<double>(columns);
    const double ratio = std::min(static_cast<double>(recipe.height) / height,
                                  static_cast<double>(recipe.width) / width);
    // Halves go to the even number, as Python rounds.
    place.height = static_cast<std::size_t>(std::max(1.0, std::nearbyint(height * ratio)));
    place.width = static_cast<std::size_t>(std::max(1.0, std::nearbyint(width * ratio)));
    place.top = (recipe.height - place.height) / 2;
    place.left = (recipe.width - place.width) / 2;
  }
  return place;
}

/// What the Python package keeps between a picture and its result at the most, in pixels. Here it
/// is less, but both refuse the same pictures, and what takes that much memory there takes long
/// here.
std::size_t taken(std::size_t height, std::size_t width, const Preprocess& recipe) {
  const Place place = place_of(height, width, recipe);
  const bool narrower = place.width != width && width > 1;
  if (!recipe.antialias) {
    const bool same = place.height == height && place.width == width;
    return same ? 0 : std::min(height, 2 * place.height) * place.width;
  }
  return std::max({narrower ? height * place.width : 0, narrower ? kWeights * width : 0,
                   place.height != height ? kWeights * height : 0});
}

/// `picture PATH of 4 x 3 pixels`.
std::string described(std::size_t height, std::size_t width, const std::string& name) {
  return name + " of " + std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

std::string advice(std::size_t max_pixels) {
  return "over the budget of " + std::to_string(max_pixels) +
         " pixels: make it smaller, or raise --max-pixels (max_pixels)";
}

/// The network's input while it is filled.
class Input {
 public:
  Input(const Preprocess& recipe, const Place& place, float* out)
      : values_(make_values(recipe)),
        place_(place),
        width_(recipe.width),
        plane_(recipe.height * recipe.width),
        out_(out) {
    pad(recipe);
  }

  void take(std::size_t row, const std::uint8_t* pixels) {
    float* line = out_ + (place_.top + row) * width_ + place_.left;
    for (std::size_t column = 0; column < place_.width; ++column, pixels += kChannels) {
      line[column] = values_[0][pixels[0]];
      line[column + plane_] = values_[1][pixels[1]];
      line[column + 2 * plane_] = values_[2][pixels[2]];
    }
  }

 private:
  void pad(const Preprocess& recipe) {
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
      const float grey = values_[channel][recipe.padding];
      float* plane = out_ + channel * plane_;
      const auto fill = [&](std::size_t row, std::size_t from, std::size_t to) {
        std::fill(plane + row * width_ + from, plane + row * width_ + to, grey);
      };
      for (std::size_t row = 0; row < recipe.height; ++row) {
        if (row < place_.top || row >= place_.top + place_.height) {
          fill(row, 0, width_);
        } else {
          fill(row, 0, place_.left);
          fill(row, place_.left + place_.width, width_);
        }
      }
    }
  }

  Values values_;
  Place place_;
  std::size_t width_;
  std::size_t plane_;
  float* out_;
};

void check(const ImageView& image, const Preprocess& recipe) {
  if (image.data == nullptr || image.height == 0 || image.width == 0 ||
      (image.stride != 0 && image.stride < kChannels * image.width)) {
    throw ImageError(
        std::string("a picture must be uint8 [H, W, 3] in RGB; found ") +
        (image.data == nullptr && image.height != 0 && image.width != 0 ? "no data for "
                                                                        : "uint8 ") +
        "[" + std::to_string(image.height) + ", " + std::to_string(image.width) + ", 3]" +
        (image.stride != 0 ? " with rows of " + std::to_string(image.stride) + " bytes"
                           : std::string()));
  }
  if (recipe.height == 0 || recipe.width == 0) {
    throw ImageError("the input of a network has at least one pixel; found a recipe for " +
                     std::to_string(recipe.height) + " x " + std::to_string(recipe.width));
  }
}

/// As numpy's clip: what is not a number stays that.
float clipped(float value, float most) { return std::min(std::max(value, 0.0F), most); }

}  // namespace

void check_picture(std::size_t height, std::size_t width, std::size_t max_pixels,
                   const std::string& name) {
  if (width != 0 && height > max_pixels / width) {
    throw ImageError(described(height, width, name) + " is " + advice(max_pixels));
  }
}

void check_picture(std::size_t height, std::size_t width, const Preprocess& recipe,
                   std::size_t max_pixels, const std::string& name) {
  check_picture(height, width, max_pixels, name);
  const auto pixels = taken(height, width, recipe);
  if (pixels > max_pixels) {
    throw ImageError(described(height, width, name) + " takes " + std::to_string(pixels) +
                     " while it is resized, " + advice(max_pixels));
  }
}

void Geometry::to_picture(float* boxes, std::size_t count) const {
  const std::array<float, 2> most{static_cast<float>(width), static_cast<float>(height)};
  for (std::size_t place = 0; place < 4 * count; ++place) {
    const std::size_t axis = place % 2;
    const float moved =
        (boxes[place] - static_cast<float>(offset[axis])) * static_cast<float>(scale[axis]);
    boxes[place] = clipped(moved, most[axis]);
  }
}

Geometry prepare(const ImageView& image, const Preprocess& recipe, float* out,
                 std::size_t max_pixels) {
  check(image, recipe);
  check_picture(image.height, image.width, recipe, max_pixels);
  const Place place = place_of(image.height, image.width, recipe);
  Input input(recipe, place, out);
  const auto take = [&input](std::size_t row, const std::uint8_t* pixels) {
    input.take(row, pixels);
  };
  // A picture of the right size comes out of both unchanged.
  if (recipe.antialias) {
    resize_averaging(image, place.height, place.width, take);
  } else {
    resize_sampling(image, place.height, place.width, take);
  }
  return {{static_cast<double>(image.width) / static_cast<double>(place.width),
           static_cast<double>(image.height) / static_cast<double>(place.height)},
          {static_cast<double>(place.left), static_cast<double>(place.top)},
          image.height,
          image.width};
}

Batch prepare_batch(const std::vector<ImageView>& images, const Preprocess& recipe,
                    std::size_t max_pixels) {
  if (images.empty()) {
    throw ImageError("a batch of no pictures cannot be prepared: give at least one");
  }
  for (const auto& image : images) {
    check(image, recipe);
    check_picture(image.height, image.width, recipe, max_pixels);
  }
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max() / sizeof(float) / kChannels;
  if (recipe.height > kMost / recipe.width / images.size()) {
    throw ImageError("a batch of " + std::to_string(images.size()) + " inputs of " +
                     std::to_string(recipe.height) + " x " + std::to_string(recipe.width) +
                     " pixels does not fit in memory");
  }
  const std::size_t one = kChannels * recipe.height * recipe.width;
  Batch batch;
  batch.images.resize(images.size() * one);
  for (std::size_t index = 0; index < images.size(); ++index) {
    batch.geometries.push_back(
        prepare(images[index], recipe, &batch.images[index * one], max_pixels));
  }
  return batch;
}

}  // namespace anydepth
