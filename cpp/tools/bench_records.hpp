/// \file
/// What `verify` and `eval` have recorded in a bundle about the artifacts that are timed.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/manifest.hpp"

namespace bench {

class Records {
 public:
  /// Reads the records in the manifest of `folder`, as far as they are there.
  Records(const std::filesystem::path& folder, const std::vector<anydepth::Artifact>& artifacts,
          std::string precision, std::string runtime);

  /// The first artifact whose newest comparison failed, and when.
  std::optional<std::pair<std::string, std::string>> failed() const;

  /// When all artifacts had passed; absent where one was never compared, or failed.
  std::optional<std::string> last_passed() const;

  /// Average precision of these very artifacts by depth: `ap`, `data`, `pictures`, `data_sha256`.
  /// All of one data set: that of the most depths, the newest of several.
  std::map<std::string, nlohmann::ordered_json> accuracies(
      const std::vector<std::string>& depths) const;

 private:
  struct Comparison {
    std::string when;
    bool passed = false;
  };
  std::optional<Comparison> newest(const anydepth::Artifact& artifact) const;
  bool measured(const nlohmann::ordered_json& record, const std::string& depth) const;

  nlohmann::ordered_json results_;
  const std::vector<anydepth::Artifact>& artifacts_;
  std::string precision_;
  std::string runtime_;
};

}  // namespace bench
