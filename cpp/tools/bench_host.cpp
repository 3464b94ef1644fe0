#include "bench_host.hpp"

#include <array>
#include <ctime>
#include <fstream>
#include <sstream>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/utsname.h>
#include <unistd.h>
#endif

namespace bench {
namespace {

/// What follows `key:` in a file of such lines; empty where it is not there.
std::string field(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) {
      continue;
    }
    const auto end = line.find_last_not_of(" \t", colon - 1);
    const auto begin = line.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos && line.substr(0, end + 1) == key) {
      return line.substr(begin);
    }
  }
  return "";
}

std::optional<std::int64_t> status(const std::string& key) {
  std::istringstream text(field("/proc/self/status", key));
  std::int64_t kilobytes = 0;
  if (text >> kilobytes) {
    return kilobytes * 1024;
  }
  return std::nullopt;
}

}  // namespace

std::string processor() {
  for (const auto* key : {"model name", "Hardware", "Model"}) {  // of x86, and of Arm
    if (auto found = field("/proc/cpuinfo", key); !found.empty()) {
      return found;
    }
  }
  return "unknown";
}

std::string system_name() {
#if defined(__unix__) || defined(__APPLE__)
  utsname found{};
  if (uname(&found) == 0) {
    return std::string(found.sysname) + "-" + found.release + "-" + found.machine;
  }
#endif
  return "unknown";
}

std::optional<std::int64_t> total_memory() {
#if defined(_SC_PHYS_PAGES)
  const auto pages = sysconf(_SC_PHYS_PAGES);
  const auto page = sysconf(_SC_PAGE_SIZE);
  if (pages > 0 && page > 0) {
    return static_cast<std::int64_t>(pages) * page;
  }
#endif
  return std::nullopt;
}

unsigned int cores() { return std::thread::hardware_concurrency(); }

std::optional<std::int64_t> resident_memory() { return status("VmRSS"); }
std::optional<std::int64_t> peak_memory() { return status("VmHWM"); }

std::string utc_now() {
  const auto now = std::time(nullptr);
  std::array<char, 32> text{};
  const auto size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S+00:00",
                                  std::gmtime(&now));
  return {text.data(), size};
}

}  // namespace bench
