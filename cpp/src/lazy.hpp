/// \file
/// What is opened when it is first needed, once, whichever thread comes first.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

namespace anydepth {

template <typename Value>
class Lazy {
 public:
  /// The value, made by `open` where there is none yet. Who comes meanwhile waits; where `open`
  /// throws, the next caller tries again.
  template <typename Open>
  std::shared_ptr<Value> get(Open&& open) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (value_ == nullptr) {
      value_ = std::forward<Open>(open)();
    }
    return value_;
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<Value> value_;
};

}  // namespace anydepth
