#include "sha256.hpp"

#include <algorithm>
#include <fstream>
#include <vector>

#include "anydepth/errors.hpp"
#include "regular_file.hpp"

namespace anydepth {
namespace {

/// First 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<std::uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::uint32_t turn(std::uint32_t word, unsigned by) {
  return (word >> by) | (word << (32U - by));
}

}  // namespace

void Sha256::update(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  std::size_t held = size_ % rest_.size();
  size_ += size;
  if (held > 0) {
    const std::size_t taken = std::min(size, rest_.size() - held);
    std::copy_n(bytes, taken, rest_.begin() + static_cast<std::ptrdiff_t>(held));
    bytes += taken;
    size -= taken;
    held += taken;
    if (held < rest_.size()) {
      return;
    }
    block(rest_.data());
  }
  for (; size >= rest_.size(); size -= rest_.size(), bytes += rest_.size()) {
    block(bytes);
  }
  std::copy_n(bytes, size, rest_.begin());
}

std::string Sha256::finish() {
  const std::uint64_t bits = 8 * size_;
  const std::size_t held = size_ % rest_.size();
  std::array<std::uint8_t, 72> tail{0x80};
  const std::size_t zeros = (held < 56 ? 56 : 120) - held;
  update(tail.data(), zeros);
  std::array<std::uint8_t, 8> length{};
  for (std::size_t place = 0; place < length.size(); ++place) {
    length[place] = static_cast<std::uint8_t>(bits >> (56 - 8 * place));
  }
  update(length.data(), length.size());
  std::string text;
  for (const std::uint32_t word : state_) {
    for (unsigned shift = 32; shift > 0; shift -= 4) {
      text += "0123456789abcdef"[(word >> (shift - 4)) & 15U];
    }
  }
  return text;
}

void Sha256::block(const std::uint8_t* bytes) {
  std::array<std::uint32_t, 64> words{};
  for (std::size_t place = 0; place < 16; ++place) {
    const std::uint8_t* four = bytes + 4 * place;
    words[place] = (std::uint32_t{four[0]} << 24U) | (std::uint32_t{four[1]} << 16U) |
                   (std::uint32_t{four[2]} << 8U) | four[3];
  }
  for (std::size_t place = 16; place < words.size(); ++place) {
    const std::uint32_t early = words[place - 15];
    const std::uint32_t late = words[place - 2];
    words[place] = words[place - 16] + (turn(early, 7) ^ turn(early, 18) ^ (early >> 3U)) +
                   words[place - 7] + (turn(late, 17) ^ turn(late, 19) ^ (late >> 10U));
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t round = 0; round < words.size(); ++round) {
    const std::uint32_t first = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) +
                                ((e & f) ^ (~e & g)) + kRounds[round] + words[round];
    const std::uint32_t second =
        (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + first;
    d = c;
    c = b;
    b = a;
    a = first + second;
  }
  const std::array<std::uint32_t, 8> added{a, b, c, d, e, f, g, h};
  for (std::size_t place = 0; place < added.size(); ++place) {
    state_[place] += added[place];
  }
}

std::string file_sha256(const std::filesystem::path& path) {
  if (const auto kind = kind_of_file(path)) {
    throw BundleError(path.string() + " cannot be read: " + no_file(*kind));
  }
  std::ifstream file(path, std::ios::binary);
  Sha256 digest;
  std::vector<char> block(1U << 20U);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    digest.update(block.data(), static_cast<std::size_t>(file.gcount()));
  }
  if (!file.eof()) {
    throw BundleError(path.string() + " cannot be read");
  }
  return digest.finish();
}

}  // namespace anydepth
