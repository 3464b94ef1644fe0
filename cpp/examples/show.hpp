/// \file
/// What anydepth-detect found, for people, for programs, and drawn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "anydepth/anydepth.hpp"
#include "pictures.hpp"

namespace show {

/// What was found in a picture, and where it was drawn.
struct Prediction {
  std::filesystem::path image;
  std::string depth;
  std::vector<anydepth::Detection> detections;
  std::optional<std::filesystem::path> drawing;
};

/// A picture that could not be used, and why.
struct Skipped {
  std::filesystem::path image;
  std::string error;
};

/// A failure as programs are told of it: its class, and what it says.
struct Failure {
  std::string kind;
  std::string message;
  int exit_status = 2;
};

/// The document of `anydepth-deploy predict --json`, with the keys that exist here.
struct Document {
  std::vector<Prediction> predictions;
  std::vector<Skipped> skipped;
  double seconds = 0;
};

/// Of one picture, as a table.
void table(const Prediction& found, const anydepth::Bundle& bundle);

/// One object on standard output; with the key `error` where there is a failure.
void json(const Document& document, const anydepth::Bundle& bundle,
          const std::optional<Failure>& failure);

/// A failure of which there is no document.
void json(const Failure& failure);

/// The picture with boxes, enlarged where it is small.
pictures::Picture drawn(const pictures::Picture& picture, std::vector<anydepth::Detection> found);

}  // namespace show
