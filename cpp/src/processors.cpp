// The quota of control groups, of both versions (Linux, Documentation/admin-guide/cgroup-v2), and the
// processors that a process may run on. Python's twin is anydepth_deploy/runtimes/threads.py.

#include "processors.hpp"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace anydepth {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProcessors = "sys/devices/system/cpu";

std::optional<std::string> text_of(const fs::path& path) {
  std::ifstream file(path);
  std::string text;
  if (!file || !std::getline(file, text, '\0')) {
    return std::nullopt;
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

/// Cores that one control group leaves; none where it sets no limit.
std::optional<double> limit_of(const fs::path& folder) {
  std::string quota;
  std::string period;
  if (const auto both = text_of(folder / "cpu.max")) {
    std::istringstream(*both) >> quota >> period;
  } else {
    quota = text_of(folder / "cpu.cfs_quota_us").value_or("");
    period = text_of(folder / "cpu.cfs_period_us").value_or("");
  }
  const auto number = [](const std::string& text) {
    const bool digits =
        !text.empty() && text.size() < 16 &&
        std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    return digits ? std::stoll(text) : 0;
  };
  if (number(quota) <= 0 || number(period) <= 0) {  // "max", "-1", or no such file
    return std::nullopt;
  }
  return static_cast<double>(number(quota)) / static_cast<double>(number(period));
}

/// The control groups of this process for the CPU, with all above.
std::vector<fs::path> groups(const fs::path& root) {
  std::vector<fs::path> found;
  std::istringstream lines(text_of(root / "proc/self/cgroup").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const auto number = line.substr(0, first);
    const auto controllers = line.substr(first + 1, second - first - 1);
    const auto path = fs::path(line.substr(second + 1)).relative_path();
    std::vector<fs::path> mounts;
    if (number == "0" && controllers.empty()) {
      mounts = {"sys/fs/cgroup", "sys/fs/cgroup/unified"};
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      mounts = {fs::path("sys/fs/cgroup") / controllers, "sys/fs/cgroup/cpu"};
    }
    const bool outside = std::find(path.begin(), path.end(), "..") != path.end();
    for (const auto& mount : mounts) {
      auto level = outside ? root / mount : root / mount / path;
      for (; level != (root / mount).parent_path() && level.has_relative_path();
           level = level.parent_path()) {
        found.push_back(level);
      }
    }
  }
  return found;
}

std::optional<double> quota(const fs::path& root) {
  std::optional<double> least;
  for (const auto& folder : groups(root)) {
    if (const auto cores = limit_of(folder)) {
      least = std::min(least.value_or(*cores), *cores);
    }
  }
  return least;
}

std::optional<std::vector<int>> allowed_here() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    std::vector<int> found;
    for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
      if (CPU_ISSET(static_cast<std::size_t>(processor), &set)) {
        found.push_back(processor);
      }
    }
    return found;
  }
#endif
  return std::nullopt;
}

/// Processors that are there, and the cores that those allowed make: two threads of a core count
/// once.
struct Cores {
  std::size_t processors = 0;
  std::size_t allowed = 0;
};

Cores cores(const fs::path& root, const std::vector<int>& allowed) {
  Cores found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(root / kProcessors, failed)) {
    const auto name = entry.path().filename().string();
    found.processors += name.size() > 3 && name.rfind("cpu", 0) == 0 &&
                        std::all_of(name.begin() + 3, name.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
  }
  std::set<std::string> siblings;
  for (const auto processor : allowed) {
    const auto number = std::to_string(processor);
    const auto file = root / kProcessors / ("cpu" + number) / "topology/thread_siblings_list";
    siblings.insert(text_of(file).value_or(number));
  }
  found.allowed = siblings.size();
  return found;
}

}  // namespace

std::optional<int> limited_threads(const fs::path& root,
                                   const std::optional<std::vector<int>>& allowed) {
  const auto processors = allowed ? allowed : allowed_here();
  if (!processors || processors->empty()) {
    return std::nullopt;
  }
  const auto found = cores(root, *processors);
  const auto time = quota(root);
  const auto most = static_cast<double>(found.allowed);
  const bool few = processors->size() < found.processors;
  if (!few && (!time || std::ceil(*time) >= most)) {
    return std::nullopt;
  }
  return static_cast<int>(std::max(1.0, std::min(most, std::ceil(time.value_or(most)))));
}

std::optional<bool> lacks_vnni() {
#if defined(__x86_64__) || defined(_M_X64)
  static const auto found = [] {
    const auto flags = text_of("/proc/cpuinfo");
    return flags ? std::optional<bool>(flags->find("avx512_vnni") == std::string::npos &&
                                       flags->find("avx_vnni") == std::string::npos)
                 : std::nullopt;
  }();
  return found;
#else
  return false;
#endif
}

}  // namespace anydepth
