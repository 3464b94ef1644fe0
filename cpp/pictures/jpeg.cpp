// JPEG through libjpeg.

#include "formats.hpp"

#if ANYDEPTH_WITH_JPEG

#include <array>
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

namespace pictures {
namespace {

constexpr unsigned int kSegmentLength = 0xFFFF;

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

/// Reads the whole file. What has a destructor belongs to the caller: a jump must not pass over it.
bool decode(jpeg_decompress_struct& jpeg, const std::vector<std::uint8_t>& content,
            Failure& failure, Picture& picture, int& orientation) {
  if (setjmp(failure.back) != 0) {
    return false;
  }
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, content.data(), static_cast<unsigned long>(content.size()));
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, kSegmentLength);
  jpeg_read_header(&jpeg, TRUE);
  for (auto* marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
    if (const int found = exif_orientation(marker->data, marker->data_length); found != 1) {
      orientation = found;
    }
  }
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  picture.height = jpeg.output_height;
  picture.width = jpeg.output_width;
  picture.pixels.resize(picture.height * picture.width * 3);
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = picture.pixels.data() + jpeg.output_scanline * picture.width * 3;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}

}  // namespace

bool has_jpeg() { return true; }

Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>& content,
                  int& orientation) {
  Failure failure{};
  Picture picture;
  jpeg_decompress_struct jpeg{};
  jpeg.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = fail;
  failure.manager.output_message = ignore;
  const bool done = decode(jpeg, content, failure, picture, orientation);
  jpeg_destroy_decompress(&jpeg);
  if (!done) {
    unreadable(path, failure.reason.data());
  }
  return picture;
}

}  // namespace pictures

#else

namespace pictures {

bool has_jpeg() { return false; }

Picture read_jpeg(const std::filesystem::path& path, const std::vector<std::uint8_t>&, int&) {
  unreadable(path, "this build has no libjpeg");
}

}  // namespace pictures

#endif
