#include "show.hpp"

#include <algorithm>
#include <cstdio>

namespace show {
namespace {

// Small pictures are enlarged to about this many pixels before boxes are drawn on them.
constexpr std::size_t kSmallestDrawing = 640;

std::string unicode_escape(unsigned int unit) {
  char escape[8];
  std::snprintf(escape, sizeof escape, "\\u%04x", unit);
  return escape;
}

// A text of JSON in ASCII: no letter of a class's name, which a file says, reaches a terminal as it
// is. Manifests are UTF-8.
std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (std::size_t place = 0; place < text.size();) {
    const auto lead = static_cast<unsigned char>(text[place]);
    const std::size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    unsigned int point = size == 1 ? lead : lead & (0x7fU >> size);
    for (std::size_t next = 1; next < size && place + next < text.size(); ++next) {
      point = (point << 6U) | (static_cast<unsigned char>(text[place + next]) & 0x3fU);
    }
    place += size;
    if (point == '"' || point == '\\') {
      made += '\\';
    }
    if (point >= 0x10000) {
      made += unicode_escape(0xd800 + ((point - 0x10000) >> 10U));
      made += unicode_escape(0xdc00 + ((point - 0x10000) & 0x3ffU));
    } else if (point < 0x20 || point >= 0x7f) {
      made += unicode_escape(point);
    } else {
      made += static_cast<char>(point);
    }
  }
  return made + "\"";
}

std::string quoted(const std::filesystem::path& path) {
  return quoted(path.u8string());
}

void print_detections(const std::vector<anydepth::Detection>& found,
                      const anydepth::Bundle& bundle) {
  const char* comma = "";
  for (const auto& item : found) {
    const auto& box = item.box;
    std::printf("%s\n   {\"class\": %s, \"label\": %lld, \"score\": %.6f, "
                "\"box\": [%.3f, %.3f, %.3f, %.3f]}",
                comma, quoted(bundle.class_name(item.label)).c_str(),
                static_cast<long long>(item.label), static_cast<double>(item.score),
                static_cast<double>(box[0]), static_cast<double>(box[1]),
                static_cast<double>(box[2]), static_cast<double>(box[3]));
    comma = ",";
  }
}

void print_failure(const Failure& failure) {
  std::printf("\"error\": {\"kind\": %s, \"message\": %s, \"exit_status\": %d}",
              quoted(failure.kind).c_str(), quoted(failure.message).c_str(), failure.exit_status);
}

}  // namespace

void table(const Prediction& found, const anydepth::Bundle& bundle) {
  std::printf("%zu detection(s) at depth %s\n", found.detections.size(),
              anydepth::shorten({found.depth}).c_str());
  if (found.detections.empty()) {
    return;
  }
  std::printf("%-16s %6s  %8s %8s %8s %8s\n", "class", "score", "x1", "y1", "x2", "y2");
  for (const auto& item : found.detections) {
    const auto& box = item.box;
    std::printf("%-16s %6.3f  %8.1f %8.1f %8.1f %8.1f\n",
                anydepth::shorten({bundle.class_name(item.label)}).c_str(),
                static_cast<double>(item.score), static_cast<double>(box[0]),
                static_cast<double>(box[1]), static_cast<double>(box[2]),
                static_cast<double>(box[3]));
  }
}

void json(const Document& document, const anydepth::Bundle& bundle,
          const std::optional<Failure>& failure) {
  std::printf("{\"schema_version\": 1, \"predictions\": [");
  const char* comma = "";
  for (const auto& found : document.predictions) {
    // Videos, whose frames have a number and a time, are not read here.
    std::printf("%s\n {\"image\": %s, \"frame\": null, \"time\": null, \"depth\": %s, "
                "\"drawn\": %s, \"detections\": [",
                comma, quoted(found.image).c_str(), quoted(found.depth).c_str(),
                found.drawing ? quoted(*found.drawing).c_str() : "null");
    print_detections(found.detections, bundle);
    std::printf("]}");
    comma = ",";
  }
  std::printf("],\n \"skipped\": [");
  comma = "";
  for (const auto& one : document.skipped) {
    std::printf("%s\n  {\"image\": %s, \"error\": %s}", comma, quoted(one.image).c_str(),
                quoted(one.error).c_str());
    comma = ",";
  }
  const auto pictures = document.predictions.size();
  std::printf("],\n \"pictures\": %zu, \"seconds\": %.3f, \"pictures_per_second\": ", pictures,
              document.seconds);
  if (document.seconds > 0) {
    std::printf("%.2f", static_cast<double>(pictures) / document.seconds);
  } else {
    std::printf("null");
  }
  if (failure) {
    std::printf(",\n ");
    print_failure(*failure);
  }
  std::printf("}\n");
}

void json(const Failure& failure) {
  std::printf("{\"schema_version\": 1, ");
  print_failure(failure);
  std::printf("}\n");
}

pictures::Picture drawn(const pictures::Picture& picture,
                        std::vector<anydepth::Detection> found) {
  const auto longest = std::max(picture.width, picture.height);
  const auto times = std::max<std::size_t>(1, kSmallestDrawing / longest);
  auto drawing = pictures::enlarged(picture, times);
  const auto shortest = std::min(drawing.width, drawing.height);
  const auto line = std::max<std::size_t>(1, std::min(longest * times / 320, shortest / 8));
  std::reverse(found.begin(), found.end());  // the best last, over the others
  for (const auto& item : found) {
    auto box = item.box;
    for (auto& side : box) {
      side *= static_cast<float>(times);
    }
    pictures::draw_box(drawing, box, pictures::class_colour(item.label), line);
  }
  return drawing;
}

}  // namespace show
