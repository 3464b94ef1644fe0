/// \file
/// Every error this library throws on purpose; the texts are those of the Python package.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "anydepth/export.hpp"

namespace anydepth {

/// Root of the hierarchy: bad use or bad input. One line that names the file, says what was found
/// and what was expected, and ends with what to do.
///
/// What a message quotes of files and arguments was written by others: what a terminal would obey is
/// escaped in it, and what is too long is cut.
class ANYDEPTH_EXPORT Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message);
};

/// A bundle is missing, damaged, altered or of another version.
class ANYDEPTH_EXPORT BundleError : public Error {
 public:
  using Error::Error;
};

/// A depth, level or row that the model does not have.
class ANYDEPTH_EXPORT DepthError : public Error {
 public:
  using Error::Error;
};

/// No GPU, not enough of its memory, or a call that failed on it.
class ANYDEPTH_EXPORT DeviceError : public Error {
 public:
  using Error::Error;
};

/// A picture that cannot be used.
class ANYDEPTH_EXPORT ImageError : public Error {
 public:
  using Error::Error;
};

/// An array given to a session has the wrong type, shape or range.
class ANYDEPTH_EXPORT InputError : public Error {
 public:
  using Error::Error;
};

/// Options that do not go together, a value that no option takes, or a backend that this build of
/// the library does not have.
class ANYDEPTH_EXPORT UsageError : public Error {
 public:
  using Error::Error;
};

/// Joins `items` for a one-line message or a table, naming at most `limit` and counting the rest:
/// control characters are escaped, in quotes then, and long ones are cut in the middle.
ANYDEPTH_EXPORT std::string shorten(const std::vector<std::string>& items, std::size_t limit = 6);

}  // namespace anydepth
