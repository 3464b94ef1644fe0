// Python's twins: anydepth_deploy/bundle/measured.py and anydepth_deploy/reading/processor.py.

#include "measured.hpp"

#ifdef __linux__
#include <sys/utsname.h>
#endif

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "runtimes/registry.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

/// Words with one space between them.
std::string in_words(const std::string& text) {
  std::istringstream words(text);
  std::string found;
  for (std::string word; words >> word;) {
    found += (found.empty() ? "" : " ") + word;
  }
  return found;
}

/// What the first line of `key` says; nothing where there is none.
std::string field_of(const std::filesystem::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (in_words(line.substr(0, colon)) == key && colon != std::string::npos) {
      return in_words(line.substr(colon + 1));
    }
  }
  return "";
}

std::string machine() {
#ifdef __linux__
  utsname found{};
  if (uname(&found) == 0) {
    return found.machine;
  }
#endif
  return "unknown processor";
}

}  // namespace

std::string processor_name(const std::filesystem::path& root) {
  std::string name = field_of(root / "proc/cpuinfo", "model name");
  if (name.empty()) {
    std::ifstream file(root / "proc/device-tree/model");
    std::string text;
    std::getline(file, text, '\0');
    name = in_words(text);
  }
  return name.empty() ? machine() : name;
}

std::string device_of(const std::string& runtime) {
  return runtime == "tensorrt" ? device_name(runtime) : processor_name();
}

Measured find_measured(const Manifest& manifest, const std::vector<Artifact>& artifacts,
                       const SessionOptions& options) {
  std::set<std::string> hashes;
  for (const auto& item : artifacts) {
    hashes.insert(item.sha256);
  }
  std::string here;
  Measured found;
  for (const auto& item : manifest.measured) {
    if (item.runtime != options.runtime || item.precision != options.precision ||
        !std::all_of(item.artifacts.begin(), item.artifacts.end(),
                     [&](const std::string& digest) { return hashes.count(digest) != 0; })) {
      continue;
    }
    if (here.empty()) {  // asking for the device takes time
      here = device_of(options.runtime);
    }
    if (item.device != here) {
      found.elsewhere.push_back(item);
    } else if (!found.here || item.threads == options.threads ||
               found.here->threads != options.threads) {
      found.here = item;
    }
  }
  return found;
}

}  // namespace anydepth
