// anydepth-probe: what the project's tests call the library through.
//
// Reads one JSON object a line, {"call": NAME, ...}, and answers each with one line, {"result":
// ...} or
// {"error": CLASS, "message": TEXT}. Arrays are files of raw bytes that the objects name.

#include "probe.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>

#include "anydepth/errors.hpp"

namespace probe {

std::vector<char> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot read " + path);
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_bytes(const std::string& path, const void* data, std::size_t size) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  if (!file.flush()) {
    throw std::runtime_error("cannot write " + path);
  }
}

anydepth::SessionOptions session_options(const Json& given) {
  anydepth::SessionOptions options;
  options.runtime = given.value("runtime", options.runtime);
  options.precision = given.value("precision", options.precision);
  options.target = maybe<std::string>(given, "target");
  options.layout = maybe<std::string>(given, "layout");
  options.weights = maybe<std::string>(given, "weights");
  options.threads = maybe<int>(given, "threads");
  options.kept_depths = maybe<int>(given, "kept_depths");
  options.check = given.value("check", true);
  options.preload = given.value("preload", false);
  return options;
}

namespace {

std::string class_of(const std::exception& error) {
  const auto is = [&error](const auto* kind) {
    return dynamic_cast<decltype(kind)>(&error) != nullptr;
  };
  const std::vector<std::pair<std::string, bool>> classes{
      {"BundleError", is(static_cast<const anydepth::BundleError*>(nullptr))},
      {"DepthError", is(static_cast<const anydepth::DepthError*>(nullptr))},
      {"DeviceError", is(static_cast<const anydepth::DeviceError*>(nullptr))},
      {"ImageError", is(static_cast<const anydepth::ImageError*>(nullptr))},
      {"InputError", is(static_cast<const anydepth::InputError*>(nullptr))},
      {"UsageError", is(static_cast<const anydepth::UsageError*>(nullptr))},
  };
  const auto found =
      std::find_if(classes.begin(), classes.end(), [](const auto& item) { return item.second; });
  return found != classes.end() ? found->first : "std::exception";
}

Json answer(const Calls& calls, const std::string& line) {
  try {
    const Json given = Json::parse(line);
    return {{"result", calls.at(given.at("call").get<std::string>())(given)}};
  } catch (const std::exception& error) {
    return {{"error", class_of(error)}, {"message", error.what()}};
  }
}

}  // namespace
}  // namespace probe

int main() {
  probe::Calls calls;
  probe::add_core(calls);
  probe::add_pictures(calls);
  probe::add_sessions(calls);
  probe::add_pilot(calls);
  probe::add_bench(calls);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout
        << probe::answer(calls, line).dump(-1, ' ', true, probe::Json::error_handler_t::replace)
        << std::endl;
  }
  return 0;
}
