#include <algorithm>
#include <cmath>

#include "formats.hpp"

namespace pictures {
namespace {

constexpr std::size_t kLongest = 10;  // digits of a number
constexpr std::size_t kLargest = 65535;

/// Reads the header's numbers as Pillow does: what is between white space, without comments, which
/// may even stand within a number.
class Header {
 public:
  Header(const std::filesystem::path& path, const std::vector<std::uint8_t>& content)
      : path_(path), content_(content) {}

  std::size_t number() {
    std::string word;
    while (word.size() <= kLongest && at_ < content_.size()) {
      const auto letter = content_[at_++];
      if (is_space(letter)) {
        if (!word.empty()) {
          break;
        }
      } else if (letter == '#') {
        skip_line();
      } else if (letter >= '0' && letter <= '9') {
        word += static_cast<char>(letter);
      } else {
        refuse();
      }
    }
    if (word.empty() || word.size() > kLongest) {
      refuse();
    }
    return std::stoull(word);
  }

  /// Where the pixels begin: behind one white space.
  std::size_t end() const { return at_; }

  [[noreturn]] void refuse() const {
    unreadable(path_, "its header has no width, height and largest value");
  }

 private:
  void skip_line() {
    while (at_ < content_.size() && content_[at_] != '\n' && content_[at_] != '\r') {
      ++at_;
    }
    at_ = std::min(at_ + 1, content_.size());
  }

  static bool is_space(std::uint8_t letter) {
    return letter == ' ' || (letter >= '\t' && letter <= '\r');
  }

  const std::filesystem::path& path_;
  const std::vector<std::uint8_t>& content_;
  std::size_t at_ = 3;  // behind P6 and a white space
};

/// A value of 0 to `largest` as one of 0 to 255.
std::uint8_t scaled(std::size_t value, std::size_t largest) {
  const auto share = static_cast<double>(value) / static_cast<double>(largest);
  return static_cast<std::uint8_t>(std::min(std::nearbyint(share * 255), 255.0));
}

}  // namespace

Picture read_ppm(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                 std::size_t max_pixels) {
  Header header(path, content);
  Picture picture;
  picture.width = header.number();
  picture.height = header.number();
  const auto largest = header.number();
  if (picture.width == 0 || picture.height == 0 || largest == 0 || largest > kLargest) {
    header.refuse();
  }
  check_size(path, picture.height, picture.width, max_pixels);
  const auto count = picture.height * picture.width * 3;
  const std::size_t bytes = largest < 256 ? 1 : 2;
  if ((content.size() - header.end()) / bytes < count) {
    unreadable(path, "it is cut short");
  }
  const auto* from = content.data() + header.end();
  if (largest == 255) {
    picture.pixels.assign(from, from + count);
    return picture;
  }
  picture.pixels.resize(count);
  for (auto& pixel : picture.pixels) {
    pixel = scaled(bytes == 1 ? from[0] : from[0] * std::size_t{256} + from[1], largest);
    from += bytes;
  }
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
