/// \file
/// A gated graph compiled once for each depth that is run: the depths used last are kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../lazy.hpp"
#include "engine.hpp"

namespace anydepth {

/// What was compiled, by row of the depth table; at most `most`, the latest used. Who wants a depth
/// that is compiled does not wait for the compilation of another; who wants the same one waits.
template <typename Compiled>
class KeptDepths {
 public:
  explicit KeptDepths(std::size_t most) : most_(most) {}

  /// What `make` makes of `row`, now or before; what it throws, the next caller tries again.
  template <typename Make>
  std::shared_ptr<Compiled> at(std::size_t row, Make&& make) {
    return place_of(row)->get(std::forward<Make>(make));
  }

 private:
  using Place = std::shared_ptr<Lazy<Compiled>>;

  Place place_of(std::size_t row) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(places_.begin(), places_.end(),
                                    [&](const auto& item) { return item.first == row; });
    if (found != places_.end()) {
      places_.splice(places_.begin(), places_, found);
    } else {
      places_.emplace_front(row, std::make_shared<Lazy<Compiled>>());
      if (places_.size() > most_) {
        places_.pop_back();  // who runs it has its own share of it
      }
    }
    return places_.front().second;
  }

  std::size_t most_;
  std::mutex mutex_;
  std::list<std::pair<std::size_t, Place>> places_;  // the latest used come first
};

/// What is fed to a gated graph whose depth is a constant.
struct FedDepth {
  std::size_t row = 0;
  /// Everything but the depth.
  std::vector<Feed> rest;
};

/// Takes the depth out of what is fed to the graph `name` with these inputs, whose depth table has
/// so many `rows`. Throws InputError for other inputs and for what is no row: one that is a constant
/// asks no runtime.
FedDepth take_depth(const std::vector<Feed>& feeds, const std::vector<std::string>& inputs,
                    std::size_t rows, const std::string& name);

}  // namespace anydepth
