#include "kept_depths.hpp"

#include <cstdint>
#include <set>

#include "../tensors.hpp"
#include "anydepth/errors.hpp"

namespace anydepth {
namespace {

constexpr const char* kDepth = "depth";

std::size_t row_of(const TensorView& depth, std::size_t rows, const std::string& name) {
  const auto whole = depth.type == Type::kInt64 && depth.shape.empty();
  const auto row = whole ? *elements_of<std::int64_t>(depth) : -1;
  if (row < 0 || static_cast<std::size_t>(row) >= rows) {
    throw InputError(name + ": depth is " + name_of(depth.type) + " " +
                     (whole ? std::to_string(row) : written(depth.shape)) +
                     "; expected one integer, a row of the depth table, 0 to " +
                     std::to_string(rows == 0 ? 0 : rows - 1));
  }
  return static_cast<std::size_t>(row);
}

}  // namespace

FedDepth take_depth(const std::vector<Feed>& feeds, const std::vector<std::string>& inputs,
                    std::size_t rows, const std::string& name) {
  std::vector<std::string> given;
  for (const auto& feed : feeds) {
    given.push_back(feed.name);
  }
  if (std::set<std::string>(given.begin(), given.end()) !=
      std::set<std::string>(inputs.begin(), inputs.end())) {
    throw InputError(name + ": expected the inputs " + shorten(inputs) + "; found " +
                     (given.empty() ? "none" : shorten(given)));
  }
  FedDepth found;
  for (const auto& feed : feeds) {
    if (feed.name == kDepth) {
      found.row = row_of(feed.value, rows, name);
    } else {
      found.rest.push_back(feed);
    }
  }
  return found;
}

}  // namespace anydepth
