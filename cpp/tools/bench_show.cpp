#include "bench_show.hpp"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench_statistics.hpp"
#include "bench_text.hpp"
#include "text.hpp"

namespace bench {
namespace {

using Json = nlohmann::ordered_json;
using Row = std::vector<std::string>;

/// Four significant digits, or all before the point; a dash for what is not known.
std::string number(const Json& value) {
  if (value.is_null()) {
    return "-";
  }
  const auto found = value.get<double>();
  return format("%.*f", found >= 100 ? 1 : found >= 10 ? 2 : 3, found);
}

/// `12.34 [12.31, 12.40]`
std::string interval(const Json& found) {
  const auto value = number(found["value"]);
  return found["low"].is_null()
             ? value
             : value + " [" + number(found["low"]) + ", " + number(found["high"]) + "]";
}

std::string macs(double value) {
  return value >= 1e9 ? format("%.2f G", value / 1e9) : format("%.1f M", value / 1e6);
}

Row headings(const Json& result) {
  Row cells{"depth", "MACs", "n", "median ms"};
  for (const auto& [name, value] : result["depths"][0]["latency"]["percentiles_ms"].items()) {
    if (name != "50") {
      cells.push_back("p" + name);
    }
  }
  for (const auto* name : {"min", "max", "mean", "dev", "speed-up", "images/s", "verdict"}) {
    cells.emplace_back(name);
  }
  return cells;
}

Row row_of(const Json& depth) {
  const auto& latency = depth["latency"];
  Row cells{anydepth::shown(depth["depth"].get<std::string>()),
            macs(depth["macs"].get<double>()), latency["count"].dump(),
            interval(latency["median_ms"])};
  for (const auto& [name, value] : latency["percentiles_ms"].items()) {
    if (name != "50") {
      cells.push_back(number(value));
    }
  }
  for (const auto* name : {"minimum_ms", "maximum_ms", "mean_ms", "deviation_ms"}) {
    cells.push_back(number(latency[name]));
  }
  cells.push_back(interval(depth["speedup"]));
  cells.push_back(number(depth["images_per_second"]));
  cells.push_back(depth["verdict"]["word"]);
  return cells;
}

/// The rows with columns as wide as their widest cell; those that say nothing are left out.
void print_table(const std::vector<Row>& rows) {
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      const auto silent = std::all_of(rows.begin() + 1, rows.end(), [&](const Row& other) {
        return other[column] == "-";
      });
      if (silent) {
        continue;
      }
      std::size_t width = 0;
      for (const auto& other : rows) {
        width = std::max(width, other[column].size());
      }
      line += (line.empty() ? "" : "  ") + row[column] +
              std::string(width - row[column].size(), ' ');
    }
    std::printf("%s\n", line.substr(0, line.find_last_not_of(' ') + 1).c_str());
  }
}

std::string joined(const Json& boundaries, const std::string& word) {
  std::string text;
  for (const auto& [step, how] : boundaries.items()) {
    if (how.get<std::string>().rfind(word, 0) == 0) {
      text += (text.empty() ? "" : ", ") + step;
    }
  }
  return text;
}

void print_needs(const Json& result) {
  std::size_t fewest = SIZE_MAX;
  for (const auto& depth : result["depths"]) {
    fewest = std::min(fewest, depth["latency"]["count"].get<std::size_t>());
  }
  std::string needs;
  for (const double percent : result["settings"]["percentiles"]) {
    if (samples_needed(percent) > fewest) {
      needs += (needs.empty() ? "" : ", ") +
               format("p%g needs %zu", percent, samples_needed(percent));
    }
  }
  if (!needs.empty()) {
    std::printf("%zu samples a depth: %s (--count, --duration)\n", fewest, needs.c_str());
  }
}

}  // namespace

void show(const Json& result) {
  const auto& subject = result["subject"];
  const auto& settings = result["settings"];
  const auto word = [](const Json& value) {  // names are not ours
    return anydepth::shown(value.get<std::string>());
  };
  const auto threads = settings["threads"].is_null() ? "default threads"
                                                     : settings["threads"].dump() + " thread(s)";
  std::printf("%s (%s %s), %s %s %s: depths %s, batch %s, %s\n", word(subject["name"]).c_str(),
              word(subject["family"]).c_str(), word(subject["config"]).c_str(),
              word(subject["runtime"]).c_str(), word(subject["precision"]).c_str(),
              word(subject["layout"]).c_str(), word(settings["mode"]).c_str(),
              settings["batch"].dump().c_str(), threads.c_str());
  std::vector<Row> rows{headings(result)};
  for (const auto& depth : result["depths"]) {
    rows.push_back(row_of(depth));
  }
  print_table(rows);
  const auto& boundaries = result["boundaries"];
  std::printf("timed: %s; not timed: %s\n", joined(boundaries, "timed").c_str(),
              joined(boundaries, "not").c_str());
  std::printf("load %.0f ms\n", result["load_ms"].get<double>());
  print_needs(result);
  if (subject["verified"].is_null()) {
    std::printf("never verified: 'anydepth-deploy verify' proves what is fast\n");
  }
  std::printf("verdict: %s\n", word(result["verdict"]["word"]).c_str());
  for (const auto& reason : result["verdict"]["reasons"]) {
    std::printf("  %s\n", word(reason).c_str());
  }
}

}  // namespace bench
