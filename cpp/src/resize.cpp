#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace anydepth {
namespace {

constexpr std::size_t kChannels = 3;

const std::uint8_t* row_of(const ImageView& image, std::size_t row) {
  return image.data + row * (image.stride != 0 ? image.stride : kChannels * image.width);
}

// --- averaging

/// Binary places of a weight: what is left of 32 bits beside 8 for a pixel and 2 to spare.
constexpr int kPlaces = 22;
constexpr std::int32_t kHalf = 1 << (kPlaces - 1);

/// Per place of the result the pixels it averages over.
struct Window {
  std::size_t first;
  std::size_t count;
};

/// Windows of one axis, and the weights of each, `most` apart.
struct Windows {
  std::vector<Window> windows;
  std::vector<std::int32_t> weights;
  std::size_t most = 0;

  const std::int32_t* weights_of(std::size_t place) const { return &weights[place * most]; }
};

/// A triangle as wide as two pixels of the picture or of the result, whichever are larger, around
/// the centre of each place.
Windows make_windows(std::size_t old_size, std::size_t new_size) {
  const double scale = static_cast<double>(old_size) / static_cast<double>(new_size);
  const double reach = std::max(scale, 1.0);
  const double shrink = 1.0 / reach;
  Windows found;
  found.most = std::min(2 * static_cast<std::size_t>(std::ceil(reach)) + 1, old_size);
  found.windows.reserve(new_size);
  found.weights.assign(new_size * found.most, 0);
  std::vector<double> shares(found.most);
  for (std::size_t place = 0; place < new_size; ++place) {
    const double centre = (static_cast<double>(place) + 0.5) * scale;
    const auto first = static_cast<std::size_t>(std::max(centre - reach + 0.5, 0.0));
    const auto last = std::min(static_cast<std::size_t>(centre + reach + 0.5), old_size);
    double sum = 0;
    for (std::size_t pixel = first; pixel < last; ++pixel) {
      const double distance = (static_cast<double>(pixel) - centre + 0.5) * shrink;
      const double share = std::max(1.0 - std::abs(distance), 0.0);
      shares[pixel - first] = share;
      sum += share;
    }
    std::int32_t* weights = &found.weights[place * found.most];
    for (std::size_t pixel = 0; pixel < last - first; ++pixel) {
      const double share = sum != 0 ? shares[pixel] / sum : shares[pixel];
      weights[pixel] = static_cast<std::int32_t>(0.5 + share * (1 << kPlaces));
    }
    found.windows.push_back({first, last - first});
  }
  return found;
}

std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::min(sum >> kPlaces, 255));
}

/// One row in another width.
void average_along(const std::uint8_t* pixels, const Windows& columns, std::uint8_t* result) {
  for (std::size_t place = 0; place < columns.windows.size(); ++place) {
    const auto [first, count] = columns.windows[place];
    const std::int32_t* weights = columns.weights_of(place);
    const std::uint8_t* pixel = pixels + kChannels * first;
    std::int32_t red = kHalf;
    std::int32_t green = kHalf;
    std::int32_t blue = kHalf;
    for (std::size_t tap = 0; tap < count; ++tap, pixel += kChannels) {
      red += weights[tap] * pixel[0];
      green += weights[tap] * pixel[1];
      blue += weights[tap] * pixel[2];
    }
    *result++ = rounded(red);
    *result++ = rounded(green);
    *result++ = rounded(blue);
  }
}

/// The rows of a picture in another width. Each is made when it is first asked for, in rising
/// order; those of the newest `kept` numbers stay.
class WideRows {
 public:
  WideRows(const ImageView& image, std::size_t width, std::size_t kept)
      : image_(image), same_(width == image.width), kept_(kept), bytes_(kChannels * width) {
    if (!same_) {
      columns_ = make_windows(image.width, width);
      rows_.resize(kept * bytes_);
    }
  }

  const std::uint8_t* get(std::size_t row) {
    if (same_) {
      return row_of(image_, row);
    }
    if (row >= next_) {  // rows between, where there are any, are of use to nobody
      average_along(row_of(image_, row), columns_, at(row));
      next_ = row + 1;
    }
    return at(row);
  }

 private:
  std::uint8_t* at(std::size_t row) { return &rows_[row % kept_ * bytes_]; }

  const ImageView& image_;
  bool same_;
  std::size_t kept_;
  std::size_t bytes_;
  std::size_t next_ = 0;
  Windows columns_;
  std::vector<std::uint8_t> rows_;
};

/// Rows of the result, each an average over those of a picture `width` wide.
class ColumnPass {
 public:
  ColumnPass(std::size_t width, std::size_t old_height, std::size_t new_height)
      : windows_(make_windows(old_height, new_height)),
        sums_(kChannels * width),
        result_(kChannels * width) {}

  /// How many rows are averaged at the most.
  std::size_t reach() const { return windows_.most; }

  template <typename GetRow>
  const std::uint8_t* row(std::size_t row, GetRow get) {
    const auto [first, count] = windows_.windows[row];
    const std::int32_t* weights = windows_.weights_of(row);
    std::fill(sums_.begin(), sums_.end(), kHalf);
    for (std::size_t tap = 0; tap < count; ++tap) {
      const std::uint8_t* pixels = get(first + tap);
      const std::int32_t weight = weights[tap];
      for (std::size_t place = 0; place < sums_.size(); ++place) {
        sums_[place] += weight * pixels[place];
      }
    }
    std::transform(sums_.begin(), sums_.end(), result_.begin(), rounded);
    return result_.data();
  }

 private:
  Windows windows_;
  std::vector<std::int32_t> sums_;
  std::vector<std::uint8_t> result_;
};

// --- sampling

/// Binary places of an interpolation weight.
constexpr int kBits = 11;
constexpr std::int32_t kOne = 1 << kBits;

/// The first of the two pixels that a place lies between, the second, and the second's weight.
struct Between {
  std::size_t first;
  std::size_t second;
  std::int32_t weight;
};

std::vector<Between> make_places(std::size_t old_size, std::size_t new_size) {
  const double ratio = static_cast<double>(old_size) / static_cast<double>(new_size);
  const auto last = static_cast<double>(old_size - 1);
  std::vector<Between> found;
  found.reserve(new_size);
  for (std::size_t place = 0; place < new_size; ++place) {
    const double at = std::clamp((static_cast<double>(place) + 0.5) * ratio - 0.5, 0.0, last);
    const double floor = std::floor(at);
    const auto first = static_cast<std::size_t>(floor);
    found.push_back({first, std::min(first + 1, old_size - 1),
                     static_cast<std::int32_t>(std::nearbyint((at - floor) * kOne))});
  }
  return found;
}

void sample_along(const std::uint8_t* pixels, const std::vector<Between>& columns,
                  std::int32_t* result) {
  for (const auto& [first, second, weight] : columns) {
    const std::uint8_t* one = pixels + kChannels * first;
    const std::uint8_t* other = pixels + kChannels * second;
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
      *result++ = one[channel] * (kOne - weight) + other[channel] * weight;
    }
  }
}

}  // namespace

void resize_averaging(const ImageView& image, std::size_t height, std::size_t width,
                      const TakeRow& take) {
  if (image.width == 1 && width != 1) {
    // Along rows its only pixel is repeated, which no order changes: so of fewer rows.
    std::vector<std::uint8_t> line(kChannels * width);
    resize_averaging(image, height, 1, [&](std::size_t row, const std::uint8_t* pixel) {
      for (auto at = line.begin(); at != line.end(); at += kChannels) {
        std::copy_n(pixel, kChannels, at);
      }
      take(row, line.data());
    });
    return;
  }
  if (height == image.height) {
    WideRows rows(image, width, 1);
    for (std::size_t row = 0; row < height; ++row) {
      take(row, rows.get(row));
    }
  } else {
    ColumnPass pass(width, image.height, height);
    WideRows rows(image, width, pass.reach());
    for (std::size_t row = 0; row < height; ++row) {
      take(row, pass.row(row, [&](std::size_t other) { return rows.get(other); }));
    }
  }
}

void resize_sampling(const ImageView& image, std::size_t height, std::size_t width,
                     const TakeRow& take) {
  if (height == image.height && width == image.width) {
    for (std::size_t row = 0; row < height; ++row) {
      take(row, row_of(image, row));
    }
    return;
  }
  const auto rows = make_places(image.height, height);
  const auto columns = make_places(image.width, width);
  const std::size_t count = kChannels * width;
  std::vector<std::int32_t> above(count);
  std::vector<std::int32_t> below(count);
  std::size_t above_is = image.height;  // rows of the picture; none yet
  std::size_t below_is = image.height;
  std::vector<std::uint8_t> result(count);
  for (std::size_t row = 0; row < height; ++row) {
    const auto [first, second, weight] = rows[row];
    if (above_is != first && below_is == first) {
      std::swap(above, below);
      std::swap(above_is, below_is);
    }
    if (above_is != first) {
      sample_along(row_of(image, first), columns, above.data());
      above_is = first;
    }
    if (below_is != second && weight != 0) {
      sample_along(row_of(image, second), columns, below.data());
      below_is = second;
    }
    for (std::size_t place = 0; place < count; ++place) {
      const std::int32_t sum = weight == 0 ? above[place] * kOne
                                           : above[place] * (kOne - weight) + below[place] * weight;
      result[place] = static_cast<std::uint8_t>((sum + (1 << (2 * kBits - 1))) >> (2 * kBits));
    }
    take(row, result.data());
  }
}

}  // namespace anydepth
