// JPEG through libjpeg, with the verdict and the pixels of the Python package.

#include "formats.hpp"

#if ANYDEPTH_WITH_JPEG

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <string_view>

#include <jpeglib.h>

namespace pictures {
namespace {

constexpr unsigned int kSegmentLength = 0xFFFF;
constexpr std::string_view kExif("Exif\0\0", 6);
constexpr std::string_view kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
constexpr int kCmyk = 4;  // components

/// What libjpeg calls where it cannot go on: it must not return, and C code must not be thrown
/// through, so it jumps to where the work began.
struct Failure {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  std::array<char, JMSG_LENGTH_MAX> reason;
};

[[noreturn]] void fail(j_common_ptr jpeg) {
  auto& failure = *reinterpret_cast<Failure*>(jpeg->err);
  (*jpeg->err->format_message)(jpeg, failure.reason.data());
  std::longjmp(failure.back, 1);
}

void ignore(j_common_ptr) {}

/// The whole file is there from the start. libjpeg's own source makes up an end for one that is
/// cut; this one has no more to give, so that decoding stops short.
class Source {
 public:
  explicit Source(const std::vector<std::uint8_t>& content) : manager_{} {
    manager_.next_input_byte = content.data();
    manager_.bytes_in_buffer = content.size();
    manager_.init_source = [](j_decompress_ptr) {};
    manager_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
    manager_.skip_input_data = skip;
    manager_.resync_to_restart = jpeg_resync_to_restart;
    manager_.term_source = [](j_decompress_ptr) {};
  }

  jpeg_source_mgr* manager() { return &manager_; }

 private:
  static void skip(j_decompress_ptr jpeg, long count) {
    if (count > 0) {
      const auto left = jpeg->src->bytes_in_buffer;
      const auto skipped = std::min(left, static_cast<std::size_t>(count));
      jpeg->src->next_input_byte += skipped;
      jpeg->src->bytes_in_buffer -= skipped;
    }
  }

  jpeg_source_mgr manager_;
};

/// What segments before the pixels say.
void listen(const jpeg_decompress_struct& jpeg, Said& said) {
  for (const auto* marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.substr(0, kExif.size()) == kExif) {
      said.exif = said.exif ? *said.exif + std::string(data.substr(kExif.size()))
                            : std::string(data);
    } else if (data.substr(0, kXmp.size()) == kXmp) {
      said.texts["xmp"] = data.substr(kXmp.size());
    }
  }
}

/// One file while it is decoded.
class Decoder {
 public:
  explicit Decoder(const std::vector<std::uint8_t>& content) : source_(content) {
    jpeg_.err = jpeg_std_error(&failure_.manager);
    failure_.manager.error_exit = fail;
    failure_.manager.output_message = ignore;
  }
  ~Decoder() { jpeg_destroy_decompress(&jpeg_); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Nothing with a destructor may be made in here: a jump would pass over it.
  bool open() {
    if (setjmp(failure_.back) != 0) {
      return false;
    }
    jpeg_create_decompress(&jpeg_);
    jpeg_.src = source_.manager();
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, kSegmentLength);
    return jpeg_read_header(&jpeg_, TRUE) == JPEG_HEADER_OK || cut();
  }

  /// Rows of RGB, or of CMYK where the file has four components.
  bool start() {
    if (setjmp(failure_.back) != 0) {
      return false;
    }
    jpeg_.out_color_space = jpeg_.num_components == kCmyk ? JCS_CMYK : JCS_RGB;
    return jpeg_start_decompress(&jpeg_) != FALSE || cut();
  }

  bool read(std::uint8_t* row) {
    if (setjmp(failure_.back) != 0) {
      return false;
    }
    return jpeg_read_scanlines(&jpeg_, &row, 1) == 1 || cut();
  }

  /// What follows the last row; an end that is missing there is no loss.
  bool finish() {
    if (setjmp(failure_.back) != 0) {
      return false;
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  const jpeg_decompress_struct& jpeg() const { return jpeg_; }
  const char* reason() const { return failure_.reason.data(); }

 private:
  bool cut() {
    std::snprintf(failure_.reason.data(), failure_.reason.size(), "it is cut short");
    return false;
  }

  Failure failure_{};
  jpeg_decompress_struct jpeg_{};
  Source source_;
};

/// The share `part` of `whole`, both out of 255.
int share(int part, int whole) {
  const int product = part * whole + 128;
  return ((product >> 8) + product) >> 8;
}

/// Inks to light. They are stored upside down, as Adobe does, whether the file says so or not.
void print(const std::vector<std::uint8_t>& inks, std::uint8_t* row) {
  for (std::size_t at = 0; at < inks.size(); at += kCmyk, row += 3) {
    const int light = inks[at + 3];
    for (std::size_t channel = 0; channel < 3; ++channel) {
      row[channel] = static_cast<std::uint8_t>(light - share(255 - inks[at + channel], light));
    }
  }
}

}  // namespace

bool has_jpeg() { return true; }

Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                  std::size_t max_pixels, Said& said) {
  Decoder decoder(content);
  if (!decoder.open()) {
    unreadable(path, decoder.reason());
  }
  const auto& jpeg = decoder.jpeg();
  check_size(path, jpeg.image_height, jpeg.image_width, max_pixels);
  listen(jpeg, said);
  if (!decoder.start()) {
    unreadable(path, decoder.reason());
  }
  Picture picture{jpeg.output_height, jpeg.output_width, {}};
  picture.pixels.resize(picture.height * picture.width * 3);
  std::vector<std::uint8_t> inks(jpeg.num_components == kCmyk ? picture.width * kCmyk : 0);
  for (std::size_t row = 0; row < picture.height; ++row) {
    auto* line = picture.pixels.data() + row * picture.width * 3;
    if (!decoder.read(inks.empty() ? line : inks.data())) {
      unreadable(path, decoder.reason());
    }
    if (!inks.empty()) {
      print(inks, line);
    }
  }
  if (!decoder.finish()) {
    unreadable(path, decoder.reason());
  }
  return picture;
}

}  // namespace pictures

#else

namespace pictures {

bool has_jpeg() { return false; }

Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>&, std::size_t,
                  Said&) {
  unreadable(path, "this build has no libjpeg");
}

}  // namespace pictures

#endif
