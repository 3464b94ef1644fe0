#include "warn.hpp"

#include <iostream>
#include <mutex>
#include <utility>

#include "anydepth/log.hpp"
#include "text.hpp"

namespace anydepth {
namespace {

std::mutex& mutex() {
  static std::mutex only;
  return only;
}

WarningHook& hook() {
  static WarningHook only;
  return only;
}

}  // namespace

void on_warning(WarningHook next) {
  const std::lock_guard<std::mutex> lock(mutex());
  hook() = std::move(next);
}

void warn(const std::string& message) {
  const std::lock_guard<std::mutex> lock(mutex());
  if (hook()) {
    hook()(in_one_line(message));
  } else {
    std::cerr << "anydepth: warning: " << in_one_line(message) << '\n';
  }
}

}  // namespace anydepth
