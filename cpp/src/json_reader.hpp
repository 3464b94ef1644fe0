/// \file
/// JSON read strictly: what is missing, of another type or not expected is an error that names the
/// place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"

namespace anydepth {

/// A value that is not what the manifest's description asks for.
class InvalidJson : public std::runtime_error {
 public:
  InvalidJson(std::string place, const std::string& problem)
      : std::runtime_error(problem), place_(std::move(place)), problem_(problem) {}

  /// Keys and numbers joined by dots: `artifacts.0.file`; empty at the top.
  const std::string& place() const { return place_; }
  /// What is wrong, whole: what() ends where a name has a zero byte.
  const std::string& problem() const { return problem_; }

 private:
  std::string place_;
  std::string problem_;
};

/// One value, which somebody else owns, and where it is.
class JsonValue {
 public:
  /// The topmost one. `unknown`: where the places of keys go that nobody asks for; without it they
  /// are refused.
  explicit JsonValue(const Json& json, std::vector<std::string>* unknown = nullptr)
      : json_(&json), unknown_(unknown) {}

  const Json& json() const { return *json_; }

  bool is_null() const;
  std::string text() const;
  bool flag() const;
  double number() const;
  std::int64_t integer() const;
  /// Within `low` to `high`, both included.
  std::int64_t integer(std::int64_t low, std::int64_t high) const;
  /// One of `choices`.
  std::string choice(const std::vector<std::string>& choices) const;
  /// A SHA-256 in hexadecimal.
  std::string digest() const;
  std::vector<JsonValue> items() const;
  std::vector<std::string> texts() const;
  /// An object that maps names to values, in its order.
  std::vector<std::pair<std::string, JsonValue>> members() const;
  /// A member of an object, where it is there.
  std::optional<JsonValue> member(const std::string& key) const;

  /// What to do with a key that nobody asked for.
  void not_asked_for() const;

  [[noreturn]] void refuse(const std::string& problem) const;
  [[noreturn]] void refuse(const std::string& key, const std::string& problem) const;

 private:
  template <typename Type>
  const Type& as(const char* problem) const;
  std::string place() const;
  std::string beneath(const std::string& key) const;

  /// Where a value is. Keys may be long and have many neighbours, so that none is copied: a message
  /// puts the place together.
  struct Step {
    std::shared_ptr<const Step> above;  // none at the top
    const std::string* key = nullptr;   // in the tree of values; none in a list
    std::size_t index = 0;
  };

  /// A value in `above`.
  JsonValue(const JsonValue& above, const Json& json, Step step)
      : json_(&json), step_(std::move(step)), unknown_(above.unknown_) {}
  /// This one, as what its values are in.
  std::shared_ptr<const Step> here() const { return std::make_shared<const Step>(step_); }

  const Json* json_;
  Step step_;
  std::vector<std::string>* unknown_;
};

/// An object with keys that are known beforehand. Ask for each, then call finish().
class JsonObject {
 public:
  explicit JsonObject(const JsonValue& value);

  /// A value that has to be there.
  JsonValue required(const std::string& key);
  /// One that may be left out.
  std::optional<JsonValue> optional(const std::string& key);
  /// One that may be left out or null.
  std::optional<JsonValue> nullable(const std::string& key);
  /// One that has to be there and may be null.
  std::optional<JsonValue> required_nullable(const std::string& key);

  /// Refuses keys that nobody asked for, or notes them; see JsonValue.
  void finish() const;

 private:
  JsonValue value_;
  std::set<std::string> known_;
};

}  // namespace anydepth
