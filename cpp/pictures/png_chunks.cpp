#include "png_chunks.hpp"

#if ANYDEPTH_WITH_PNG

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <zlib.h>

namespace pictures {
namespace {

constexpr std::size_t kSignature = 8;
constexpr std::size_t kHeader = 13;
constexpr std::size_t kLongestText = std::size_t{1} << 20U;
constexpr std::size_t kAllTexts = 64 * kLongestText;
constexpr std::size_t kLargestPalette = 3 * 256;

using Text = std::string_view;

std::uint32_t number(Text bytes) {
  std::uint32_t value = 0;
  for (const char byte : bytes.substr(0, 4)) {
    value = (value << 8U) | static_cast<std::uint8_t>(byte);
  }
  return value;
}

/// A chunk's length that other readers take as enough, by its name.
struct Least {
  Text name;
  std::size_t length;
};

constexpr std::array<Least, 7> kLeast{{{"IHDR", kHeader},
                                       {"gAMA", 4},
                                       {"cHRM", 32},
                                       {"sRGB", 1},
                                       {"pHYs", 9},
                                       {"acTL", 8},
                                       {"fcTL", 26}}};

/// What is before and behind the first zero; all of it, and nothing, where there is none.
std::pair<Text, Text> split(Text text) {
  const auto zero = text.find('\0');
  return zero == Text::npos ? std::pair{text, Text()}
                            : std::pair{text.substr(0, zero), text.substr(zero + 1)};
}

/// What is packed, as far as it is there.
struct Unpacked {
  Text text;
  bool damaged = false;
  bool too_long = false;
};

/// `room`: where the text goes. There may be very many, and clearing room for each takes longer
/// than all the rest.
Unpacked unpack(Text packed, std::string& room) {
  Unpacked found;
  room.resize(kLongestText);
  z_stream stream{};
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(room.data());
  stream.avail_out = static_cast<uInt>(room.size());
  if (inflateInit(&stream) != Z_OK) {
    found.damaged = true;
    return found;
  }
  const int status = inflate(&stream, Z_SYNC_FLUSH);
  found.damaged = status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR;
  found.too_long = status != Z_STREAM_END && stream.avail_out == 0 && stream.avail_in != 0;
  found.text = Text(room).substr(0, stream.total_out);
  inflateEnd(&stream);
  return found;
}

bool is_utf8(Text text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<std::uint8_t>(text[at]);
    const std::size_t more = first < 0x80                    ? 0
                             : first >= 0xC2 && first < 0xE0 ? 1
                             : (first & 0xF0U) == 0xE0       ? 2
                             : first >= 0xF0 && first < 0xF5 ? 3
                                                             : 4;
    if (more == 4 || text.size() - at <= more) {
      return false;
    }
    std::uint32_t point = more == 0 ? first : first & (0x3FU >> more);
    for (std::size_t next = 1; next <= more; ++next) {
      const auto byte = static_cast<std::uint8_t>(text[at + next]);
      if ((byte & 0xC0U) != 0x80) {
        return false;
      }
      point = (point << 6U) | (byte & 0x3FU);
    }
    constexpr std::array<std::uint32_t, 4> kLeastPoints{0, 0x80, 0x800, 0x10000};
    if (point < kLeastPoints[more] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) {
      return false;
    }
    at += more + 1;
  }
  return true;
}

class Reader {
 public:
  Reader(const std::filesystem::path& path, const std::vector<std::uint8_t>& content, Said& said)
      : path_(path),
        content_(reinterpret_cast<const char*>(content.data()), content.size()),
        said_(said) {}

  PngChunks read(std::size_t max_pixels) {
    auto chunk = next();
    while (chunk && chunk->name != "IDAT" && chunk->name != "IEND") {
      take(*chunk, true);
      chunk = next();
    }
    check(chunk.has_value() && chunk->name == "IDAT", "it is cut short");
    check_kind();
    check_size(path_, found_.height, found_.width, max_pixels);
    while (chunk && chunk->name == "IDAT") {
      const auto data = content_.substr(at_, chunk->length);
      found_.pixels += data;
      at_ = std::min(at_ + data.size() + kChecksum, content_.size());
      chunk = next();
    }
    while (chunk && chunk->name != "IEND") {
      take(*chunk, false);
      chunk = next();
    }
    return std::move(found_);
  }

 private:
  static constexpr std::size_t kChecksum = 4;

  struct Chunk {
    Text name;
    std::size_t length;
  };

  void check(bool fine, const char* reason) const {
    if (!fine) {
      unreadable(path_, reason);
    }
  }

  /// The next chunk, whose data begin at `at_`; none where there is nothing that could be one.
  std::optional<Chunk> next() {
    if (content_.size() - at_ < 8) {
      return std::nullopt;
    }
    const Chunk chunk{content_.substr(at_ + 4, 4), number(content_.substr(at_, 4))};
    const bool named = std::all_of(chunk.name.begin(), chunk.name.end(), [](char letter) {
      const char lower = static_cast<char>(letter | 0x20);
      return (lower >= 'a' && lower <= 'z') || (letter >= '0' && letter <= '9') || letter == '_';
    });
    at_ += 8;
    return named ? std::optional(chunk) : std::nullopt;
  }

  void take(const Chunk& chunk, bool compared) {
    check(content_.size() - at_ >= chunk.length, "it is cut short");
    const auto data = content_.substr(at_, chunk.length);
    at_ += chunk.length;
    const auto least = std::find_if(kLeast.begin(), kLeast.end(),
                                    [&](const Least& item) { return item.name == chunk.name; });
    check(least == kLeast.end() || data.size() >= least->length,
          "it has a chunk that is too short");
    if (chunk.name == "IHDR") {
      header(data, compared);
    } else if (chunk.name == "PLTE" && compared && found_.colour == kPngPalette) {
      check(data.size() <= kLargestPalette, "its palette has more than 256 colours");
      found_.palette = data;
    } else if (chunk.name == "iCCP") {
      profile(data);
    } else if (chunk.name == "eXIf") {
      said_.exif = data;
      said_.texts.erase("exif");
    } else if (chunk.name == "tEXt") {
      const auto [key, text] = split(data);
      say(key, text);
    } else if (chunk.name == "zTXt") {
      packed_text(data);
    } else if (chunk.name == "iTXt") {
      international_text(data);
    }
    const auto sum = content_.substr(at_, kChecksum);
    if (compared) {
      const auto whole = content_.substr(at_ - chunk.length - 4, chunk.length + 4);
      const auto expected = crc32(0, reinterpret_cast<const Bytef*>(whole.data()),
                                  static_cast<uInt>(whole.size()));
      check(sum.size() == kChecksum && number(sum) == expected, "its header is damaged");
    }
    at_ += sum.size();
  }

  void header(Text data, bool used) {
    const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(data[at]); };
    check(byte(11) == 0, "it is filtered in a way that is not known");
    if (used) {
      found_.width = number(data);
      found_.height = number(data.substr(4));
      found_.depth = byte(8);
      found_.colour = byte(9);
      found_.interlaced = found_.interlaced || byte(12) != 0;
    }
  }

  /// Whether there are pixels of this kind.
  void check_kind() const {
    const auto depth = found_.depth;
    const bool whole = depth == 8 || depth == 16;
    const bool less = depth == 1 || depth == 2 || depth == 4;
    const bool known = found_.colour == kPngGrey      ? whole || less
                       : found_.colour == kPngPalette ? depth == 8 || less
                       : found_.colour == 2 || found_.colour == 4 || found_.colour == 6
                           ? whole
                           : false;
    check(known, "there are no pictures of its bits and colours");
    check(found_.width != 0 && found_.height != 0, "it has no pixels");
    check(found_.depth != 16 || found_.colour != kPngGrey,
          "it has more than 8 bits a channel: convert it to 8 bits first");
  }

  void say(Text key, Text text) {
    if (key.empty()) {
      return;
    }
    said_.texts[std::string(key)] = text;
    texts_ += text.size();
    check(texts_ <= kAllTexts, "its texts are too long");
  }

  /// Profiles are of no use here; one that others refuse is refused.
  void profile(Text data) {
    const auto zero = data.find('\0');
    const auto at = zero == Text::npos ? 0 : zero + 1;
    check(at < data.size() && data[at] == '\0', "its profile is packed in a way that is not known");
    check(!unpack(data.substr(at + 1), room_).too_long, "its profile is too long");
  }

  void packed_text(Text data) {
    const auto [key, packed] = split(data);
    check(packed.empty() || packed[0] == '\0', "a text of it is packed in a way that is not known");
    const auto found = unpack(packed.substr(std::min<std::size_t>(1, packed.size())), room_);
    check(!found.too_long, "a text of it is too long");
    say(key, found.damaged ? Text() : found.text);
  }

  void international_text(Text data) {
    const auto [key, rest] = split(data);
    if (key.size() == data.size() || rest.size() < 2) {
      return;
    }
    auto text = rest.substr(2);
    std::array<Text, 2> names;  // the language, and the keyword in it
    for (auto& name : names) {
      const auto zero = text.find('\0');
      if (zero == Text::npos) {
        return;
      }
      name = text.substr(0, zero);
      text.remove_prefix(zero + 1);
    }
    if (rest[0] != '\0') {
      if (rest[1] != '\0') {
        return;
      }
      const auto found = unpack(text, room_);
      check(!found.too_long, "a text of it is too long");
      if (found.damaged) {
        return;
      }
      text = found.text;
    }
    if (key == "XML:com.adobe.xmp") {
      said_.texts["xmp"] = text;
    }
    if (is_utf8(names[0]) && is_utf8(names[1]) && is_utf8(text)) {
      say(key, text);
    }
  }

  const std::filesystem::path& path_;
  Text content_;
  Said& said_;
  PngChunks found_;
  std::size_t at_ = kSignature;
  std::size_t texts_ = 0;
  std::string room_;  // of the text that was unpacked last
};

}  // namespace

PngChunks read_chunks(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                      std::size_t max_pixels, Said& said) {
  return Reader(path, content, said).read(max_pixels);
}

}  // namespace pictures

#endif
