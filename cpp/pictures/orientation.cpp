#include "orientation.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace pictures {
namespace {

constexpr std::string_view kMark("Exif\0\0", 6);
constexpr std::size_t kEntry = 12;  // bytes of an entry of a TIFF directory
constexpr unsigned int kOrientation = 0x0112;

/// Numbers in a TIFF structure; none where it ends before.
class Tiff {
 public:
  explicit Tiff(std::string_view data) : data_(data), little_(data.substr(0, 2) == "II") {}

  bool is_one() const { return little_ || data_.substr(0, 2) == "MM"; }

  std::optional<std::uint32_t> number(std::size_t at, std::size_t bytes) const {
    if (at > data_.size() || data_.size() - at < bytes) {
      return std::nullopt;
    }
    std::uint32_t value = 0;
    for (std::size_t index = 0; index < bytes; ++index) {
      const auto from = at + (little_ ? bytes - 1 - index : index);
      value = (value << 8U) | static_cast<std::uint8_t>(data_[from]);
    }
    return value;
  }

 private:
  std::string_view data_;
  bool little_;
};

/// The bytes of a value that can be an orientation, by its type; 0: of no such type.
std::size_t width_of(std::uint32_t type) {
  return type == 3 || type == 8 ? 2 : type == 4 || type == 9 ? 4 : 0;
}

/// The first orientation in the first directory; whatever number stands there.
std::optional<std::uint32_t> in_exif(std::string_view data) {
  while (data.substr(0, kMark.size()) == kMark) {
    data.remove_prefix(kMark.size());
  }
  const Tiff tiff(data);
  const auto directory = tiff.is_one() ? tiff.number(4, 4) : std::nullopt;
  const auto entries = directory ? tiff.number(*directory, 2) : std::nullopt;
  for (std::size_t index = 0; entries && index < *entries; ++index) {
    const auto entry = std::size_t{*directory} + 2 + index * kEntry;
    const auto tag = tiff.number(entry, 2);
    const auto type = tiff.number(entry + 2, 2);
    const auto values = tiff.number(entry + 4, 4);
    if (!values) {
      return std::nullopt;
    }
    if (*tag == kOrientation) {
      const auto width = width_of(*type);
      return width == 0 || *values < 1 || *values > 4 / width ? std::nullopt
                                                              : tiff.number(entry + 8, width);
    }
  }
  return std::nullopt;
}

bool is_space(char letter) {
  return letter == ' ' || (letter >= '\t' && letter <= '\r');
}

int digit_of(char letter) {
  if (letter >= '0' && letter <= '9') {
    return letter - '0';
  }
  const char lower = static_cast<char>(letter | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// Bytes written as digits, behind three lines of heading; none where something else stands there.
std::optional<std::string> from_digits(const std::string& text) {
  std::size_t at = 0;
  for (int line = 0; line < 3; ++line) {
    at = text.find('\n', at);
    if (at == std::string::npos) {
      return std::string();
    }
    ++at;
  }
  std::string digits = text.substr(at);
  digits.erase(std::remove(digits.begin(), digits.end(), '\n'), digits.end());
  std::string bytes;
  for (at = 0; at < digits.size(); ++at) {
    if (is_space(digits[at])) {
      continue;
    }
    const int high = digit_of(digits[at]);
    const int low = at + 1 < digits.size() ? digit_of(digits[at + 1]) : -1;
    if (high < 0 || low < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(high * 16 + low);
    ++at;
  }
  return bytes;
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`, spaces around the sign or behind the bracket.
std::optional<std::uint32_t> in_xmp(std::string_view text) {
  constexpr std::string_view kName = "tiff:Orientation";
  const auto word = [](char letter) {
    return letter == '_' || (letter >= '0' && letter <= '9') ||
           ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z');
  };
  for (auto found = text.find(kName); found != std::string_view::npos;
       found = text.find(kName, found + 1)) {
    auto at = found + kName.size();
    const auto skip = [&] {
      while (at < text.size() && is_space(text[at])) {
        ++at;
      }
    };
    const auto take = [&](std::string_view letters) {
      const bool taken = at < text.size() && letters.find(text[at]) != std::string_view::npos;
      at += taken ? 1 : 0;
      return taken;
    };
    bool opened = take(">");
    if (!opened) {
      skip();
      if (take("=")) {
        skip();
        opened = take("\"'");
      }
    }
    skip();
    if (opened && at < text.size() && text[at] >= '0' && text[at] <= '9' &&
        (at + 1 == text.size() || !word(text[at + 1]))) {
      return static_cast<std::uint32_t>(text[at] - '0');
    }
  }
  return std::nullopt;
}

}  // namespace

int orientation_of(const Said& said) {
  const auto text = [&](const char* key) {
    const auto found = said.texts.find(key);
    return found == said.texts.end() ? nullptr : &found->second;
  };
  std::optional<std::string> exif = said.exif;
  if (const auto* digits = text("Raw profile type exif"); !exif && digits != nullptr) {
    exif = from_digits(*digits);
  }
  auto found = exif ? in_exif(*exif) : std::nullopt;
  if (!found) {
    const auto* xmp = text("XML:com.adobe.xmp");
    if (xmp == nullptr || xmp->empty()) {
      xmp = text("xmp");
    }
    found = xmp == nullptr ? std::nullopt : in_xmp(*xmp);
  }
  return found && *found >= 1 && *found <= 8 ? static_cast<int>(*found) : 1;
}

Picture turned(Picture picture, int orientation) {
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
