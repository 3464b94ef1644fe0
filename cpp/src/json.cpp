#include "json.hpp"

#include <cstddef>
#include <limits>
#include <set>
#include <stdexcept>
#include <string_view>

#include <nlohmann/json.hpp>

namespace anydepth {
namespace {

/// More than any manifest has; limits the time and memory that a made-up one can cost.
constexpr std::size_t kMostNested = 64;
constexpr std::size_t kMostValues = 1'000'000;
constexpr const char* kNotJson = "it is not valid JSON";

/// Builds the tree from what the parser meets.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(Json& top) : top_(top) {}

  bool null() override { return place() != nullptr; }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(std::int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
    return value > kMost ? add(static_cast<double>(value)) : add(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open<JsonMembers>(); }
  bool start_array(std::size_t) override { return open<JsonList>(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    std::get<JsonMembers>(open_.back()->value).emplace_back(std::move(name), Json{});
    return true;
  }

  bool end_object() override {
    std::set<std::string_view> seen;
    for (const auto& member : std::get<JsonMembers>(open_.back()->value)) {
      if (!seen.insert(member.first).second) {
        throw std::invalid_argument("an object has the key '" + member.first + "' twice");
      }
    }
    return close();
  }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& error) override {
    constexpr int kNumberOverflow = 406;
    // The parser's own words are not those of Python's.
    throw std::invalid_argument(error.id == kNumberOverflow ? "a number is too large" : kNotJson);
  }

 private:
  template <typename Value>
  bool add(Value value) {
    place()->value.emplace<Value>(std::move(value));
    return true;
  }

  template <typename Value>
  bool open() {
    if (open_.size() == kMostNested) {
      throw std::invalid_argument("nested deeper than " + std::to_string(kMostNested) + " levels");
    }
    Json* value = place();
    value->value.emplace<Value>();
    open_.push_back(value);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  /// A new value in the list or object that is open; stays where it is until that gets another one.
  Json* place() {
    if (++count_ > kMostValues) {
      throw std::invalid_argument("more than " + std::to_string(kMostValues) + " values");
    }
    if (open_.empty()) {
      return &top_;
    }
    if (auto* list = std::get_if<JsonList>(&open_.back()->value)) {
      return &list->emplace_back();
    }
    return &std::get<JsonMembers>(open_.back()->value).back().second;
  }

  Json& top_;
  std::vector<Json*> open_;
  std::size_t count_ = 0;
};

}  // namespace

Json parse_json(const std::string& text) {
  Json found;
  Builder builder(found);
  nlohmann::json::sax_parse(text, &builder);
  if (text.find('\0') != std::string::npos) {  // where the parser stops reading, content or not
    throw std::invalid_argument(kNotJson);
  }
  return found;
}

}  // namespace anydepth
