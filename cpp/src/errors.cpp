#include "anydepth/errors.hpp"

#include <algorithm>

#include "text.hpp"

namespace anydepth {

Error::Error(const std::string& message) : std::runtime_error(in_one_line(message)) {}

std::string shorten(const std::vector<std::string>& items, std::size_t limit) {
  std::vector<std::string> named;
  for (std::size_t place = 0; place < std::min(limit, items.size()); ++place) {
    const auto& item = items[place];
    named.push_back(is_printable(item) ? shown(item) : "'" + shown(item) + "'");
  }
  const std::string text = join(named, ", ");
  return items.size() <= limit ? text
                               : text + " and " + std::to_string(items.size() - limit) + " more";
}

}  // namespace anydepth
