#include "regular_file.hpp"

#include <system_error>

namespace anydepth {

std::optional<std::string> kind_of_file(const std::filesystem::path& path) {
  std::error_code error;
  switch (std::filesystem::status(path, error).type()) {
    case std::filesystem::file_type::regular:
    case std::filesystem::file_type::not_found:
    case std::filesystem::file_type::none:  // who opens it is told why
      return std::nullopt;
    case std::filesystem::file_type::directory:
      return "a folder";
    case std::filesystem::file_type::fifo:
      return "a pipe";
    case std::filesystem::file_type::socket:
      return "a socket";
    case std::filesystem::file_type::character:
    case std::filesystem::file_type::block:
      return "a device";
    default:
      return "something else";
  }
}

std::string no_file(const std::string& kind) { return "it is " + kind + ", expected a file"; }

}  // namespace anydepth
