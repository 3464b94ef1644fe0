#include "bench_records.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

namespace bench {
namespace {

using Json = nlohmann::ordered_json;

/// The records of one kind, newest first.
std::vector<Json> newest_first(const Json& results, const char* kind) {
  const auto found = results.is_object() ? results.value(kind, Json::array()) : Json::array();
  return {found.rbegin(), found.rend()};
}

}  // namespace

Records::Records(const std::filesystem::path& folder,
                 const std::vector<anydepth::Artifact>& artifacts, std::string precision,
                 std::string runtime)
    : artifacts_(artifacts), precision_(std::move(precision)), runtime_(std::move(runtime)) {
  std::ifstream file(folder / "manifest.json");
  // The library has read and checked it; the records, which it has no use for, may be anything.
  const auto manifest = Json::parse(file, nullptr, false);
  if (manifest.is_object()) {
    results_ = manifest.value("results", Json::object());
  }
}

std::optional<Records::Comparison> Records::newest(const anydepth::Artifact& artifact) const {
  if (artifact.verified) {
    return Comparison{artifact.verified->when, artifact.verified->passed};
  }
  for (const auto& record : newest_first(results_, "verify")) {
    if (record.value("runtime", "") != runtime_) {
      continue;
    }
    for (const auto& tried : record.value("artifacts", Json::array())) {
      if (tried.value("sha256", "") == artifact.sha256 &&
          tried.value("precision", "") == precision_) {
        return Comparison{record.value("when", ""), tried.value("passed", false)};
      }
    }
  }
  return std::nullopt;
}

std::optional<std::pair<std::string, std::string>> Records::failed() const {
  for (const auto& artifact : artifacts_) {
    if (const auto found = newest(artifact); found && !found->passed) {
      return std::make_pair(artifact.name, found->when);
    }
  }
  return std::nullopt;
}

std::optional<std::string> Records::last_passed() const {
  std::set<std::string> times;
  for (const auto& artifact : artifacts_) {
    const auto found = newest(artifact);
    if (!found || !found->passed) {
      return std::nullopt;
    }
    times.insert(found->when);
  }
  return *times.begin();
}

bool Records::measured(const Json& record, const std::string& depth) const {
  std::set<std::string> found;
  for (const auto& item : record.value("artifacts", Json::array())) {
    found.insert(item.value("sha256", ""));
  }
  return record.value("precision", "") == precision_ &&
         std::all_of(artifacts_.begin(), artifacts_.end(), [&](const auto& artifact) {
           const bool running = !artifact.depth || *artifact.depth == depth;
           return !running || found.count(artifact.sha256) > 0;
         });
}

std::map<std::string, Json> Records::accuracies(const std::vector<std::string>& depths) const {
  // The newest data set comes first.
  std::vector<std::pair<Json, std::map<std::string, Json>>> sets;
  for (const auto& record : newest_first(results_, "eval")) {
    const Json data = {{"data", record.value("data", "")},
                       {"pictures", record.value("pictures", 0)},
                       {"data_sha256", record.value("data_sha256", Json())}};
    for (const auto& depth : depths) {
      if (!measured(record, depth)) {
        continue;
      }
      for (const auto& row : record.value("rows", Json::array())) {
        if (row.value("depth", "") != depth) {
          continue;
        }
        auto place = std::find_if(sets.begin(), sets.end(),
                                  [&](const auto& set) { return set.first == data; });
        if (place == sets.end()) {
          sets.emplace_back(data, std::map<std::string, Json>{});
          place = std::prev(sets.end());
        }
        auto accuracy = Json::object();
        accuracy["ap"] = row.value("ap", 0.0);
        accuracy.update(data);
        place->second.emplace(depth, accuracy);
      }
    }
  }
  const auto chosen =
      std::max_element(sets.begin(), sets.end(), [](const auto& one, const auto& other) {
        return one.second.size() < other.second.size();
      });
  return chosen == sets.end() ? std::map<std::string, Json>{} : chosen->second;
}

}  // namespace bench
