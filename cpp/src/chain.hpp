/// \file
/// The pieces of a network as a plan: which run at a depth, and what flows between them.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "anydepth/depth.hpp"
#include "anydepth/manifest.hpp"

namespace anydepth {

/// The tensor that the flow starts with.
inline constexpr const char* kSource = "images";

/// One piece of a chain at work.
struct Step {
  /// Its place in Chain::specs().
  std::size_t piece = 0;
  /// Inputs and outputs of the piece's graph by name, and the tensor of the flow of each; of the
  /// outputs, those that are of use.
  Names reads;
  Names writes;
  /// What the flow still holds behind it, everything else being read by nobody any more.
  std::set<std::string> live;
};

/// All pieces of a network.
class Chain {
 public:
  /// Throws BundleError for pieces, each with its name, that are not the whole of one chain.
  explicit Chain(std::vector<std::pair<std::string, StagePiece>> pieces);

  const std::vector<std::string>& names() const { return names_; }
  const std::vector<StagePiece>& specs() const { return specs_; }
  /// The tensors that no piece reads, which are the network's outputs.
  const std::vector<std::string>& ends() const { return ends_; }

  /// The pieces that run at `depth`, in order, as places in specs(). Throws BundleError where two
  /// of an order would run, where one would read a tensor that none before has set, and where an
  /// output of the network is left unset.
  std::vector<std::size_t> at(const Depth& depth) const;

  /// What the pieces `running` set, in the order they first do.
  std::vector<std::string> tensors(const std::vector<std::size_t>& running) const;

  /// The steps that `outputs` need. Throws InputError for an output that no piece sets.
  std::vector<Step> steps(const std::vector<std::size_t>& running,
                          const std::vector<std::string>& outputs) const;

 private:
  std::vector<std::string> names_;
  std::vector<StagePiece> specs_;
  std::vector<std::string> ends_;
};

/// Whether a piece has the inputs and outputs it is described with. Throws BundleError.
void check_piece(const std::string& name, const StagePiece& spec,
                 const std::vector<std::string>& inputs, const std::vector<std::string>& outputs);

}  // namespace anydepth
