#include <algorithm>
#include <cstring>

#include "formats.hpp"

namespace pictures {
namespace {

constexpr std::size_t kHeader = 6;   // "Exif" and two zeros
constexpr std::size_t kEntry = 12;   // bytes of an entry of a TIFF directory
constexpr unsigned int kOrientation = 0x0112;

/// The TIFF structure in an EXIF segment; what lies outside reads as zero.
class Tiff {
 public:
  Tiff(const std::uint8_t* data, std::size_t size)
      : data_(data), size_(size), little_(size > 0 && data[0] == 'I') {}

  unsigned int number(std::size_t at, std::size_t bytes) const {
    unsigned int value = 0;
    for (std::size_t index = 0; index < bytes; ++index) {
      const auto from = at + (little_ ? bytes - 1 - index : index);
      value = (value << 8U) | (from < size_ ? data_[from] : 0U);
    }
    return value;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  bool little_;
};

}  // namespace

int exif_orientation(const std::uint8_t* data, std::size_t size) {
  if (size < kHeader || std::memcmp(data, "Exif\0\0", kHeader) != 0) {
    return 1;
  }
  const Tiff tiff(data + kHeader, size - kHeader);
  const std::size_t directory = tiff.number(4, 4);
  const std::size_t entries = tiff.number(directory, 2);
  for (std::size_t index = 0; index < entries; ++index) {
    const auto entry = directory + 2 + index * kEntry;
    if (tiff.number(entry, 2) == kOrientation) {
      const auto found = tiff.number(entry + 8, 2);
      return found >= 1 && found <= 8 ? static_cast<int>(found) : 1;
    }
  }
  return 1;
}

Picture turned(const Picture& picture, int orientation) {
  if (orientation == 1) {
    return picture;
  }
  const bool transposed = orientation >= 5;
  const bool flip_rows = orientation == 3 || orientation == 4 || orientation == 7 ||
                         orientation == 8;
  const bool flip_columns = orientation == 2 || orientation == 3 || orientation == 6 ||
                            orientation == 7;
  Picture made{transposed ? picture.width : picture.height,
               transposed ? picture.height : picture.width, {}};
  made.pixels.resize(picture.pixels.size());
  for (std::size_t row = 0; row < made.height; ++row) {
    for (std::size_t column = 0; column < made.width; ++column) {
      const auto y = flip_rows ? made.height - 1 - row : row;
      const auto x = flip_columns ? made.width - 1 - column : column;
      const auto from = transposed ? x * picture.width + y : y * picture.width + x;
      std::copy_n(picture.pixels.data() + 3 * from, 3,
                  made.pixels.data() + 3 * (row * made.width + column));
    }
  }
  return made;
}

}  // namespace pictures
