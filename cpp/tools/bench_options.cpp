#include "bench_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <sstream>

#include "anydepth/errors.hpp"
#include "bench_text.hpp"

namespace bench {
namespace {

[[noreturn]] void misused(const std::string& what) { throw anydepth::UsageError(what); }

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) {
    const auto begin = word.find_first_not_of(' ');
    const auto end = word.find_last_not_of(' ');
    words.push_back(begin == std::string::npos ? "" : word.substr(begin, end - begin + 1));
  }
  return words;
}

double number(const std::string& option, const std::string& text, double least,
              double largest = 1e9) {
  char* end = nullptr;
  const auto value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= least && value < largest)) {
    misused(option + " is '" + text + "': expected a number, at least " + format("%g", least));
  }
  return value;
}

std::size_t whole(const std::string& option, const std::string& text, std::size_t least) {
  const auto value = number(option, text, static_cast<double>(least));
  if (value != std::floor(value)) {
    misused(option + " is '" + text + "': expected a whole number");
  }
  return static_cast<std::size_t>(value);
}

std::string one_of(const std::string& option, const std::string& text,
                   const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
    misused("unknown " + option.substr(2) + " '" + text + "': expected " +
            anydepth::shorten(choices));
  }
  return text;
}

std::vector<double> percentiles(const std::string& text) {
  std::vector<double> found;
  for (const auto& word : split(text)) {
    found.push_back(number("--percentiles", word, std::numeric_limits<double>::min(), 100));
  }
  if (found.empty()) {
    misused("--percentiles names none: expected numbers between 0 and 100, e.g. 50,90,99");
  }
  return found;
}

using Setter = std::function<void(Options&, const std::string& option, const std::string& value)>;

const std::map<std::string, Setter>& setters() {
  using Text = const std::string&;
  static const std::map<std::string, Setter> known{
      {"--depth", [](Options& o, Text, Text v) { o.depth = v; }},
      {"--runtime", [](Options& o, Text, Text v) { o.session.runtime = v; }},
      {"--layout",
       [](Options& o, Text n, Text v) {
         o.session.layout = one_of(n, v, {"gated", "set", "stages"});
       }},
      {"--precision", [](Options& o, Text, Text v) { o.session.precision = v; }},
      {"--weights",
       [](Options& o, Text n, Text v) { o.session.weights = one_of(n, v, {"shared", "folded"}); }},
      {"--threads",
       [](Options& o, Text n, Text v) { o.session.threads = static_cast<int>(whole(n, v, 1)); }},
      {"--batch", [](Options& o, Text n, Text v) { o.batch = whole(n, v, 1); }},
      {"--mode",
       [](Options& o, Text n, Text v) { o.mode = one_of(n, v, {"interleaved", "fixed"}); }},
      {"--scope",
       [](Options& o, Text n, Text v) {
         o.scope = one_of(n, v, {"raw", "detections", "pictures"});
       }},
      {"--duration", [](Options& o, Text n, Text v) { o.duration = number(n, v, 0); }},
      {"--count", [](Options& o, Text n, Text v) { o.count = whole(n, v, 1); }},
      {"--repeats", [](Options& o, Text n, Text v) { o.repeats = whole(n, v, 1); }},
      {"--warmup", [](Options& o, Text n, Text v) { o.warmup = number(n, v, 0); }},
      {"--warmup-count", [](Options& o, Text n, Text v) { o.warmup_count = whole(n, v, 0); }},
      {"--seed", [](Options& o, Text n, Text v) { o.seed = whole(n, v, 0); }},
      {"--percentiles", [](Options& o, Text, Text v) { o.percentiles = percentiles(v); }},
      {"--images", [](Options& o, Text, Text v) { o.images = v; }},
      {"--pictures", [](Options& o, Text n, Text v) { o.pictures = whole(n, v, 1); }},
      {"--max-pixels",
       [](Options& o, Text n, Text v) { o.session.max_pixels = whole(n, v, 1); }},
      {"--out", [](Options& o, Text, Text v) { o.out = v; }},
  };
  return known;
}

}  // namespace

const char* usage() {
  return "usage: anydepth-bench BUNDLE [options]\n"
         "\n"
         "Measures the latency of each depth, and writes every sample into a result file that\n"
         "'anydepth-deploy report' reads.\n"
         "\n"
         "  --depth LIST         depths joined by commas, all (the ladder, default) or every\n"
         "  --runtime NAME       onnxruntime (default), openvino or tensorrt\n"
         "  --layout NAME        gated, set or stages; default: the first that the bundle has\n"
         "  --precision NAME     fp32 (default), fp16, int8 or bf16\n"
         "  --weights NAME       shared or folded\n"
         "  --threads N          threads inside one operator; default: the runtime's own\n"
         "  --batch N            pictures per call (1)\n"
         "  --mode NAME          interleaved (depths in turn, default) or fixed (one by one)\n"
         "  --scope NAME         raw, detections (default) or pictures: what is timed\n"
         "  --duration S         seconds to measure each depth for, at least (5)\n"
         "  --count N            calls of each depth, at least (30)\n"
         "  --repeats N          fixed: stretches a depth's time is cut into (3)\n"
         "  --warmup S           seconds to warm each depth up, at least (0.5)\n"
         "  --warmup-count N     calls, at least (3)\n"
         "  --percentiles LIST   of latency (50,90,95,99,99.9)\n"
         "  --images PATH        a picture or a folder; default: generated ones\n"
         "  --pictures N         different pictures to run (8)\n"
         "  --max-pixels N       of a picture at most, and of what resizing it takes (89478485)\n"
         "  --seed N             of pictures and orders (0)\n"
         "  --out FILE           the result file to write (*.json)\n"
         "  --json               print the result, without samples, as JSON\n"
         "  --on-request         for other programs: a line 'DEPTH PICTURE' on standard input,\n"
         "                       counted from 0 in the order given, makes that call twice and\n"
         "                       is answered with the nanoseconds of the second";
}

Options parse(const std::vector<std::string>& words) {
  Options found;
  std::vector<std::string> paths;
  for (std::size_t place = 0; place < words.size(); ++place) {
    const auto& word = words[place];
    if (word.rfind("--", 0) != 0) {
      paths.push_back(word);
    } else if (word == "--json") {
      found.json = true;
    } else if (word == "--on-request") {
      found.on_request = true;
    } else {
      const auto setter = setters().find(word);
      if (setter == setters().end()) {
        misused("unknown option " + word + ": see anydepth-bench --help");
      }
      if (place + 1 == words.size() || words[place + 1].rfind("--", 0) == 0) {
        misused(word + " needs a value: see anydepth-bench --help");
      }
      setter->second(found, word, words[++place]);
    }
  }
  if (paths.size() != 1) {
    misused("one bundle is expected, found " + std::to_string(paths.size()) +
            ": see anydepth-bench --help");
  }
  found.bundle = paths.front();
  if (found.out && found.out->extension() != ".json") {
    misused("--out " + found.out->string() + ": expected a file *.json to write");
  }
  return found;
}

std::vector<anydepth::Depth> select(const anydepth::DepthTable& table, const std::string& text) {
  std::vector<anydepth::Depth> chosen;
  const auto add = [&](const anydepth::Depth& depth) {
    if (std::find(chosen.begin(), chosen.end(), depth) == chosen.end()) {
      chosen.push_back(depth);
    }
  };
  const auto& rows = table.rows();
  for (const auto& word : split(text)) {
    if (word == "all") {
      for (const auto row : table.ladder()) {
        add(rows[row]);
      }
    } else if (word == "every") {
      std::for_each(rows.begin(), rows.end(), add);
    } else {
      add(table.find(word));
    }
  }
  if (chosen.empty()) {
    throw anydepth::DepthError("--depth names none: expected depths joined by commas, or all");
  }
  return chosen;
}

}  // namespace bench
