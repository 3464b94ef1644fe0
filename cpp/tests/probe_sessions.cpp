#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "anydepth/anydepth.hpp"
#include "probe.hpp"

#if defined(__SANITIZE_THREAD__)
// ONNX Runtime is not instrumented: what its own threads do with its own memory looks like races.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "race:libonnxruntime.so\n"; }
#endif

namespace probe {
namespace {

using anydepth::Detections;
using anydepth::Session;
using anydepth::Type;

Session open_session(const Json& given) {
  return anydepth::Bundle::open(given.at("folder").get<std::string>()).session(session_options(given));
}

anydepth::DepthName depth_of(const Json& depth) {
  return depth.is_string() ? anydepth::DepthName(depth.get<std::string>())
                           : anydepth::DepthName(depth.get<std::int64_t>());
}

/// `depths` of a call, where each image has its own.
std::optional<std::vector<anydepth::DepthName>> depths_of(const Json& given) {
  if (!given.at("depth").is_array()) {
    return std::nullopt;
  }
  std::vector<anydepth::DepthName> found;
  for (const auto& depth : given.at("depth")) {
    found.push_back(depth_of(depth));
  }
  return found;
}

Type type_of(const std::string& name) {
  for (const auto type : {Type::kFloat32, Type::kFloat16, Type::kInt64, Type::kInt32, Type::kBool,
                          Type::kUInt8, Type::kInt8}) {
    if (name == anydepth::name_of(type)) {
      return type;
    }
  }
  throw std::runtime_error("no type " + name);
}

/// An array of a file, as a call describes it: `images`, `shape`, `type`.
struct Array {
  std::vector<char> bytes;
  anydepth::TensorView view;

  explicit Array(const Json& given) : bytes(read_bytes(given.at("images"))) {
    view.data = bytes.data();
    view.type = type_of(given.value("type", "float32"));
    view.shape = given.at("shape").get<std::vector<std::int64_t>>();
  }
};

/// Files `out`.labels, .boxes and .scores.
Json written(const Detections& found, const std::string& out) {
  write_array(out + ".labels", found.labels);
  write_array(out + ".boxes", found.boxes);
  write_array(out + ".scores", found.scores);
  return {{"batch", found.batch}, {"places", found.places}};
}

bool equal(const Detections& one, const Detections& other) {
  return one.batch == other.batch && one.places == other.places && one.labels == other.labels &&
         one.boxes == other.boxes && one.scores == other.scores;
}

/// What is open, by number.
class Sessions {
 public:
  Json open(const Json& given) {
    open_.push_back(open_session(given));
    const auto& session = *open_.back();
    Json depths = Json::array();
    for (const auto& depth : session.depths()) {
      depths.push_back(depth.text);
    }
    Json artifacts = Json::array();
    for (const auto& artifact : session.artifacts()) {
      artifacts.push_back(artifact.name);
    }
    return {{"session", open_.size() - 1}, {"depths", depths}, {"artifacts", artifacts}};
  }

  Json close(const Json& given) {
    open_.at(given.at("session")).reset();
    return nullptr;
  }

  Json load(const Json& given) {
    at(given).load(depth_of(given.at("depth")));
    return nullptr;
  }

  Json run(const Json& given) {
    const Array images(given);
    const auto depths = depths_of(given);
    return written(depths ? at(given).run(images.view, *depths)
                          : at(given).run(images.view, depth_of(given.at("depth"))),
                   given.at("out"));
  }

  Json run_raw(const Json& given) {
    const Array images(given);
    const std::string out = given.at("out");
    Json found = Json::object();
    for (const auto& [name, tensor] :
         at(given).run_raw(images.view, depth_of(given.at("depth")))) {
      write_bytes(out + "." + name, tensor.view.data, tensor.view.bytes());
      found[name] = {{"type", anydepth::name_of(tensor.view.type)}, {"shape", tensor.view.shape}};
    }
    return found;
  }

  /// `pictures`: file, height and width of each.
  Json run_pictures(const Json& given) {
    std::vector<std::vector<std::uint8_t>> owned;
    std::vector<anydepth::ImageView> images;
    for (const auto& picture : given.at("pictures")) {
      owned.push_back(read_array<std::uint8_t>(picture.at(0)));
      images.push_back({owned.back().data(), picture.at(1), picture.at(2), 0});
    }
    const auto depths = depths_of(given);
    return written(depths ? at(given).run(images, *depths)
                          : at(given).run(images, depth_of(given.at("depth"))),
                   given.at("out"));
  }

 private:
  const Session& at(const Json& given) { return open_.at(given.at("session")).value(); }

  std::vector<std::optional<Session>> open_;
};

/// A session that `threads` threads use from the first call on, each with the depths in an order of
/// its own: how many of the answers differ from those of one thread, and how many there were.
Json race(const Json& given) {
  const Array images(given);
  const auto depths = given.at("depths").get<std::vector<std::string>>();
  const std::size_t repeats = given.at("repeats");
  std::vector<Detections> expected;
  {
    const auto alone = open_session(given);
    for (const auto& depth : depths) {
      expected.push_back(alone.run(images.view, depth));
    }
  }
  const auto shared = open_session(given);
  std::atomic<std::size_t> answers{0};
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t number = 0; number < given.at("racers").get<std::size_t>(); ++number) {
    threads.emplace_back([&, number] {
      const Session session = shared;  // copies share what is open
      for (std::size_t turn = 0; turn < repeats * depths.size(); ++turn) {
        const auto place = (turn * (1 + number % 2) + number) % depths.size();
        try {
          wrong += equal(session.run(images.view, depths[place]), expected[place]) ? 0 : 1;
        } catch (const std::exception&) {
          ++wrong;
        }
        ++answers;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  return {{"answers", answers.load()}, {"wrong", wrong.load()}};
}

/// What a result holds outlives its session.
Json outlive(const Json& given) {
  const Array images(given);
  anydepth::Tensors kept;
  {
    const auto session = open_session(given);
    kept = session.run_raw(images.view);
    session.run_raw(images.view);  // does not write into what was kept
  }
  const std::string out = given.at("out");
  Json found = Json::object();
  for (const auto& [name, tensor] : kept) {
    write_bytes(out + "." + name, tensor.view.data, tensor.view.bytes());
    found[name] = {{"type", anydepth::name_of(tensor.view.type)}, {"shape", tensor.view.shape}};
  }
  return found;
}

Json runtimes(const Json&) {
  Json found = Json::object();
  for (const auto& name : anydepth::runtimes()) {
    found[name] = anydepth::runtime_version(name);
  }
  return found;
}

}  // namespace

void add_sessions(Calls& calls) {
  const auto sessions = std::make_shared<Sessions>();
  calls["open"] = [=](const Json& given) { return sessions->open(given); };
  calls["close"] = [=](const Json& given) { return sessions->close(given); };
  calls["load"] = [=](const Json& given) { return sessions->load(given); };
  calls["run"] = [=](const Json& given) { return sessions->run(given); };
  calls["run_raw"] = [=](const Json& given) { return sessions->run_raw(given); };
  calls["run_pictures"] = [=](const Json& given) { return sessions->run_pictures(given); };
  calls["race"] = race;
  calls["outlive"] = outlive;
  calls["runtimes"] = runtimes;
}

}  // namespace probe
