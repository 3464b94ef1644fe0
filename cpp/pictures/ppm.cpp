#include <algorithm>

#include "formats.hpp"

namespace pictures {
namespace {

constexpr std::size_t kLargestSide = 1U << 16U;

/// Reads the header's numbers: digits, with white space and comments between them.
class Header {
 public:
  Header(const std::filesystem::path& path, const std::vector<std::uint8_t>& content)
      : path_(path), content_(content) {}

  std::size_t number(std::size_t largest) {
    skip();
    std::size_t value = 0;
    const auto begin = at_;
    while (at_ < content_.size() && content_[at_] >= '0' && content_[at_] <= '9') {
      value = value * 10 + (content_[at_++] - static_cast<std::size_t>('0'));
      if (value > largest) {
        break;
      }
    }
    if (at_ == begin || value < 1 || value > largest) {
      unreadable(path_, "its header has no width, height and 255 within reason");
    }
    return value;
  }

  /// Where the pixels begin: behind one white space.
  std::size_t end() const { return at_ + 1; }

 private:
  void skip() {
    while (at_ < content_.size() && (content_[at_] == '#' || is_space(content_[at_]))) {
      if (content_[at_] == '#') {
        at_ = static_cast<std::size_t>(
            std::find(content_.begin() + static_cast<std::ptrdiff_t>(at_), content_.end(), '\n') -
            content_.begin());
      } else {
        ++at_;
      }
    }
  }

  static bool is_space(std::uint8_t letter) {
    return letter == ' ' || (letter >= '\t' && letter <= '\r');
  }

  const std::filesystem::path& path_;
  const std::vector<std::uint8_t>& content_;
  std::size_t at_ = 2;
};

}  // namespace

Picture read_ppm(const std::filesystem::path& path, const std::vector<std::uint8_t>& content) {
  Header header(path, content);
  Picture picture;
  picture.width = header.number(kLargestSide);
  picture.height = header.number(kLargestSide);
  if (header.number(kLargestSide) != 255) {
    unreadable(path, "it has other than 8 bits a channel: convert it to 8 bits first");
  }
  const auto size = picture.height * picture.width * 3;
  if (content.size() < header.end() || content.size() - header.end() < size) {
    unreadable(path, "it is cut short");
  }
  const auto first = content.begin() + static_cast<std::ptrdiff_t>(header.end());
  picture.pixels.assign(first, first + static_cast<std::ptrdiff_t>(size));
  return picture;
}

std::vector<std::uint8_t> ppm_of(const Picture& picture) {
  const auto header = "P6\n" + std::to_string(picture.width) + " " +
                      std::to_string(picture.height) + "\n255\n";
  std::vector<std::uint8_t> content(header.begin(), header.end());
  content.insert(content.end(), picture.pixels.begin(), picture.pixels.end());
  return content;
}

}  // namespace pictures
