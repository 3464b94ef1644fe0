#include "json_reader.hpp"

#include <algorithm>
#include <cmath>
#include <variant>

#include "text.hpp"

namespace anydepth {

bool JsonValue::is_null() const { return std::holds_alternative<std::monostate>(json_->value); }

template <typename Type>
const Type& JsonValue::as(const char* problem) const {
  const Type* found = std::get_if<Type>(&json_->value);
  if (found == nullptr) {
    refuse(problem);
  }
  return *found;
}

std::string JsonValue::text() const { return as<std::string>("Input should be a valid string"); }

bool JsonValue::flag() const { return as<bool>("Input should be a valid boolean"); }

double JsonValue::number() const {
  if (const auto* whole = std::get_if<std::int64_t>(&json_->value)) {
    return static_cast<double>(*whole);
  }
  const double found = as<double>("Input should be a valid number");
  if (!std::isfinite(found)) {
    refuse("Input should be a finite number");
  }
  return found;
}

std::int64_t JsonValue::integer() const {
  return as<std::int64_t>("Input should be a valid integer");
}

std::int64_t JsonValue::integer(std::int64_t low, std::int64_t high) const {
  const std::int64_t found = integer();
  if (found < low) {
    refuse("Input should be greater than or equal to " + std::to_string(low));
  }
  if (found > high) {
    refuse("Input should be less than or equal to " + std::to_string(high));
  }
  return found;
}

std::string JsonValue::choice(const std::vector<std::string>& choices) const {
  const auto* word = std::get_if<std::string>(&json_->value);
  if (word != nullptr && std::find(choices.begin(), choices.end(), *word) != choices.end()) {
    return *word;
  }
  std::string expected;
  for (std::size_t place = 0; place < choices.size(); ++place) {
    const char* glue = place == 0 ? "" : place + 1 == choices.size() ? " or " : ", ";
    expected.append(glue).append("'").append(choices[place]).append("'");
  }
  refuse("Input should be " + expected);
}

std::string JsonValue::digest() const {
  std::string found = text();
  if (found.size() != 64 || found.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse("String should match pattern '^[0-9a-f]{64}$'");
  }
  return found;
}

std::vector<JsonValue> JsonValue::items() const {
  const auto& list = as<JsonList>("Input should be a valid list");
  std::vector<JsonValue> found;
  found.reserve(list.size());
  const auto above = here();
  for (std::size_t index = 0; index < list.size(); ++index) {
    found.push_back(JsonValue(*this, list[index], Step{above, nullptr, index}));
  }
  return found;
}

std::vector<std::string> JsonValue::texts() const {
  std::vector<std::string> found;
  for (const auto& item : items()) {
    found.push_back(item.text());
  }
  return found;
}

std::vector<std::pair<std::string, JsonValue>> JsonValue::members() const {
  std::vector<std::pair<std::string, JsonValue>> found;
  const auto above = here();
  for (const auto& [key, value] : as<JsonMembers>("Input should be a valid dictionary")) {
    found.emplace_back(key, JsonValue(*this, value, Step{above, &key}));
  }
  return found;
}

std::optional<JsonValue> JsonValue::member(const std::string& key) const {
  for (const auto& [name, value] : as<JsonMembers>("Input should be a valid dictionary")) {
    if (name == key) {
      return JsonValue(*this, value, Step{here(), &name});
    }
  }
  return std::nullopt;
}

void JsonValue::not_asked_for() const {
  if (unknown_ == nullptr) {
    refuse("Extra inputs are not permitted");
  }
  unknown_->push_back(place());
}

void JsonValue::refuse(const std::string& problem) const { throw InvalidJson(place(), problem); }

void JsonValue::refuse(const std::string& key, const std::string& problem) const {
  throw InvalidJson(beneath(key), problem);
}

std::string JsonValue::place() const {
  std::vector<const Step*> steps;  // none for the topmost value
  for (const Step* step = &step_; step->above != nullptr; step = step->above.get()) {
    steps.push_back(step);
  }
  std::string found;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    found.append(found.empty() ? "" : ".");
    found.append((*step)->key == nullptr ? std::to_string((*step)->index) : *(*step)->key);
  }
  return found;
}

std::string JsonValue::beneath(const std::string& key) const {
  const auto above = place();
  return above.empty() ? key : above + "." + key;
}

JsonObject::JsonObject(const JsonValue& value) : value_(value) {
  value.member("");  // refuses what is no object
}

std::optional<JsonValue> JsonObject::optional(const std::string& key) {
  known_.insert(key);
  return value_.member(key);
}

JsonValue JsonObject::required(const std::string& key) {
  auto found = optional(key);
  if (!found) {
    value_.refuse(key, "Field required");
  }
  return *std::move(found);
}

std::optional<JsonValue> JsonObject::nullable(const std::string& key) {
  auto found = optional(key);
  return found && found->is_null() ? std::nullopt : found;
}

std::optional<JsonValue> JsonObject::required_nullable(const std::string& key) {
  auto found = required(key);
  return found.is_null() ? std::nullopt : std::optional<JsonValue>(std::move(found));
}

void JsonObject::finish() const {
  for (const auto& [key, value] : value_.members()) {
    if (known_.count(key) == 0) {
      value.not_asked_for();
    }
  }
}

}  // namespace anydepth
