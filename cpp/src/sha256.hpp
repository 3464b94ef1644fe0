/// \file
/// SHA-256 (FIPS 180-4), for files that are compared with the manifest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace anydepth {

/// A digest that grows with the bytes it is given.
class Sha256 {
 public:
  void update(const void* data, std::size_t size);
  /// The digest in hexadecimal; nothing can be added afterwards.
  std::string finish();

 private:
  void block(const std::uint8_t* bytes);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> rest_{};
  std::uint64_t size_ = 0;
};

/// Hexadecimal digest of a file's bytes. Throws BundleError for a file that cannot be read.
std::string file_sha256(const std::filesystem::path& path);

}  // namespace anydepth
