/// \file
/// The calls that anydepth-probe answers: a JSON object in, any JSON out.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "anydepth/session.hpp"

namespace probe {

using Json = nlohmann::ordered_json;
using Call = std::function<Json(const Json& given)>;
using Calls = std::map<std::string, Call>;

/// What needs no runtime: depths, manifests, pictures, suppression, chains.
void add_core(Calls& calls);
/// Files of pictures.
void add_pictures(Calls& calls);
/// Whole sessions.
void add_sessions(Calls& calls);
/// Pilots.
void add_pilot(Calls& calls);
/// Statistics and verdicts of anydepth-bench.
void add_bench(Calls& calls);

/// An entry that may be left out or null.
template <typename Value>
std::optional<Value> maybe(const Json& given, const char* key) {
  const auto found = given.find(key);
  return found == given.end() || found->is_null() ? std::nullopt
                                                  : std::optional<Value>(found->get<Value>());
}

anydepth::SessionOptions session_options(const Json& given);

/// The bytes of a file; arrays travel as such.
std::vector<char> read_bytes(const std::string& path);
void write_bytes(const std::string& path, const void* data, std::size_t size);

template <typename Element>
std::vector<Element> read_array(const std::string& path) {
  const auto bytes = read_bytes(path);
  std::vector<Element> found(bytes.size() / sizeof(Element));
  if (!found.empty()) {
    std::copy_n(bytes.data(), found.size() * sizeof(Element),
                reinterpret_cast<char*>(found.data()));
  }
  return found;
}

template <typename Element>
void write_array(const std::string& path, const std::vector<Element>& values) {
  write_bytes(path, values.data(), values.size() * sizeof(Element));
}

}  // namespace probe
