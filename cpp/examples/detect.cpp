// Detects objects in a picture at a depth, and draws them:
//
//     anydepth-detect engines/r50 street.png --depth FTFT-F-5 --out found.png

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/anydepth.hpp"
#include "pictures.hpp"

namespace {

constexpr const char* kUsage =
    "usage: anydepth-detect BUNDLE PICTURE [--depth super|base|level:K|FFTT-F-6] "
    "[--threshold 0.5] [--out FILE] [--runtime NAME] [--layout gated|set|stages] "
    "[--precision NAME] [--threads N] [--max-pixels 89478485] [--json]";

// Small pictures are enlarged to about this many pixels before boxes are drawn on them.
constexpr std::size_t kSmallestDrawing = 640;

struct Arguments {
  std::filesystem::path bundle;
  std::filesystem::path picture;
  std::string depth = "super";
  float threshold = 0.5F;
  std::optional<std::filesystem::path> out;
  bool json = false;
  anydepth::SessionOptions session;
};

[[noreturn]] void misused(const std::string& what) {
  throw anydepth::UsageError(what + "; " + kUsage);
}

double number(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const auto value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') {
    misused(option + " is '" + text + "': expected a number");
  }
  return value;
}

std::size_t pixels(const std::string& option, const std::string& text) {
  const auto value = number(option, text);
  if (!(value >= 1 && value < 1e15 && value == std::floor(value))) {
    misused(option + " is '" + text + "': expected a whole number, at least 1");
  }
  return static_cast<std::size_t>(value);
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments found;
  std::vector<std::string> paths;
  for (std::size_t place = 0; place < words.size(); ++place) {
    const auto& word = words[place];
    if (word.rfind("--", 0) != 0) {
      paths.push_back(word);
      continue;
    }
    if (word == "--json") {
      found.json = true;
      continue;
    }
    if (place + 1 == words.size() || words[place + 1].rfind("--", 0) == 0) {
      misused(word + " needs a value, or is unknown");
    }
    const auto& value = words[++place];
    if (word == "--depth") {
      found.depth = value;
    } else if (word == "--threshold") {
      found.threshold = static_cast<float>(number(word, value));
    } else if (word == "--out") {
      found.out = value;
    } else if (word == "--runtime") {
      found.session.runtime = value;
    } else if (word == "--layout") {
      found.session.layout = value;
    } else if (word == "--precision") {
      found.session.precision = value;
    } else if (word == "--max-pixels") {
      found.session.max_pixels = pixels(word, value);
    } else if (word == "--threads") {
      found.session.threads = static_cast<int>(number(word, value));
    } else {
      misused("unknown option " + word);
    }
  }
  if (paths.size() != 2) {
    misused("a bundle and a picture are expected, found " + std::to_string(paths.size()) +
            " arguments");
  }
  found.bundle = paths[0];
  found.picture = paths[1];
  return found;
}

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

void print_json(const std::vector<anydepth::Detection>& found, const std::string& depth,
                const anydepth::Bundle& bundle) {
  std::printf("{\"depth\": %s, \"detections\": [", quoted(depth).c_str());
  const char* comma = "";
  for (const auto& item : found) {
    const auto& box = item.box;
    std::printf("%s\n {\"class\": %s, \"label\": %lld, \"score\": %.6f, "
                "\"box\": [%.3f, %.3f, %.3f, %.3f]}",
                comma, quoted(bundle.class_name(item.label)).c_str(),
                static_cast<long long>(item.label), static_cast<double>(item.score),
                static_cast<double>(box[0]), static_cast<double>(box[1]),
                static_cast<double>(box[2]), static_cast<double>(box[3]));
    comma = ",";
  }
  std::printf("]}\n");
}

void print_table(const std::vector<anydepth::Detection>& found, const std::string& depth,
                 const anydepth::Bundle& bundle) {
  std::printf("%zu detection(s) at depth %s\n", found.size(), anydepth::shorten({depth}).c_str());
  if (found.empty()) {
    return;
  }
  std::printf("%-16s %6s  %8s %8s %8s %8s\n", "class", "score", "x1", "y1", "x2", "y2");
  for (const auto& item : found) {
    const auto& box = item.box;
    std::printf("%-16s %6.3f  %8.1f %8.1f %8.1f %8.1f\n",
                anydepth::shorten({bundle.class_name(item.label)}).c_str(),
                static_cast<double>(item.score), static_cast<double>(box[0]),
                static_cast<double>(box[1]), static_cast<double>(box[2]),
                static_cast<double>(box[3]));
  }
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

void detect(const Arguments& arguments) {
  const auto bundle = anydepth::Bundle::open(arguments.bundle);
  const auto& depth = bundle.table().find(arguments.depth);
  pictures::Reading reading;
  reading.max_pixels = arguments.session.max_pixels;
  reading.recipe = bundle.manifest().preprocess;
  const auto picture = pictures::read(arguments.picture, reading);
  const auto session = bundle.session(arguments.session);
  const auto found =
      session.run({picture.view()}, arguments.depth).image(0, arguments.threshold);
  for (const auto& item : found) {
    bundle.class_name(item.label);  // throws where there is none, before anything is printed
  }
  (arguments.json ? print_json : print_table)(found, depth.text, bundle);
  if (auto out = arguments.out) {
    if (!out->has_extension()) {
      *out += pictures::preferred();
    }
    pictures::write(*out, drawn(picture, found));
    if (!arguments.json) {
      std::printf("drawn: %s\n", anydepth::shorten({out->string()}).c_str());
    }
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    const std::vector<std::string> given(words + 1, words + count);
    if (!given.empty() && given.front() == "--help") {
      std::printf("%s\n", kUsage);
      return 0;
    }
    detect(parse(given));
    return 0;
  } catch (const anydepth::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "error: there is not enough memory for this: free some, or give a smaller picture or "
                 "bundle\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: this is a bug: %s\n", anydepth::shorten({error.what()}).c_str());
    return 3;
  }
}
