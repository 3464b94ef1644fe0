// TensorRT, version 8.6 to 11: engines that were built on the device they run on, one or the chain
// of a depth, on one stream. Copies go through pinned memory; everything is put into the stream in
// order, and waited for once at the end. The activations of all engines share one block of memory,
// because only one runs at a time.
//
// Compiled against the headers of TensorRT, never run: unverified on hardware.

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <utility>

#include "../chain.hpp"
#include "../lazy.hpp"
#include "../tensors.hpp"
#include "anydepth/errors.hpp"
#include "cuda.hpp"
#include "registry.hpp"
#include "tensorrt_engine.hpp"

namespace anydepth {
namespace {

using Shape = std::vector<std::int64_t>;

/// A device with one stream and one set of buffers, for engines that run one at a time.
struct Workplace {
  /// Asked for first: TensorRT may crash where there is no GPU.
  Device device = current_device();
  /// Held during a run, and by whoever loads an engine.
  std::mutex mutex;
  Stream stream;
  Block scratch{Block::Where::kDevice};
  /// By the tensor's name in the flow.
  std::map<std::string, Block> staging;
  std::map<std::string, Block> sources;
  /// By piece and the name its engine has for the tensor: a piece runs once in a chain.
  std::map<std::pair<std::size_t, std::string>, Block> tensors;
};

/// An engine's file, and the engine once it is needed.
class Piece {
 public:
  Piece(std::shared_ptr<Workplace> workplace, Link link)
      : workplace_(std::move(workplace)), link_(std::move(link)) {}

  LoadedEngine& engine() {
    return *loaded_.get([&] {
      return std::make_shared<LoadedEngine>(link_.path, spec(), workplace_->device);
    });
  }
  const EngineSpec& spec() const { return *link_.artifact.engine; }
  const Link& link() const { return link_; }

 private:
  std::shared_ptr<Workplace> workplace_;
  Link link_;
  Lazy<LoadedEngine> loaded_;
};

using PiecePtr = std::shared_ptr<Piece>;

/// A tensor of the flow since somebody has set it.
struct Value {
  Type type = Type::kFloat32;
  Shape shape;
  std::byte* address = nullptr;
  bool host = false;
  /// Bytes it can take at most.
  std::size_t most = 0;
  /// Where the shape depends on what is computed.
  std::shared_ptr<OutputPlace> place;
};

using Flow = std::map<std::string, Value>;

Port* find(std::vector<Port>& ports, const std::string& name) {
  const auto found = std::find_if(ports.begin(), ports.end(),
                                  [&](const Port& port) { return port.name == name; });
  return found == ports.end() ? nullptr : &*found;
}

std::vector<std::string> names_of(const std::vector<Port>& ports) {
  std::vector<std::string> names;
  for (const auto& port : ports) {
    names.push_back(port.name);
  }
  return names;
}

std::size_t bytes_of(Type type, const Shape& shape) {
  return TensorView{nullptr, type, shape}.bytes();
}

const std::string& flow_name(const Names& names, const std::string& port) {
  return std::find_if(names.begin(), names.end(), [&](const auto& item) {
           return item.first == port;
         })->second;
}

/// One engine, or the chain of one depth. May be called from several threads, which take turns.
class DeviceEngine : public Engine {
 public:
  DeviceEngine(std::string name, std::shared_ptr<Workplace> workplace, std::vector<PiecePtr> pieces,
               std::shared_ptr<const Chain> chain, std::vector<std::size_t> running,
               std::size_t rows)
      : name_(std::move(name)),
        workplace_(std::move(workplace)),
        pieces_(std::move(pieces)),
        chain_(std::move(chain)),
        running_(std::move(running)),
        rows_(rows),
        outputs_(chain_->tensors(running_)) {
    find_sources();
    for (const auto place : running_) {
      smallest_ = std::max(smallest_, pieces_[place]->spec().smallest_batch);
      largest_ = std::min(largest_, pieces_[place]->spec().largest_batch);
    }
    if (smallest_ > largest_) {
      throw BundleError("the pieces of " + name_ + " have no batch in common: build them together");
    }
  }

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  std::optional<GraphPorts> ports() const override {
    GraphPorts found;
    for (const auto& port : sources_) {
      found.inputs.push_back({port.name, name_of(port.type), port.shape});
    }
    for (const auto place : running_) {
      for (const auto& port : pieces_[place]->engine().outputs()) {
        for (const auto& [name, tensor] : chain_->specs()[place].writes) {
          if (name == port.name) {
            found.outputs.push_back({tensor, name_of(port.type), port.shape});
          }
        }
      }
    }
    return found;
  }

  Tensors run(const std::vector<Feed>& feeds,
              const std::vector<std::string>& outputs) const override {
    for (const auto& port : sources_) {
      check_feed(port, feed_of(feeds, port.name));
    }
    const auto steps = chain_->steps(running_, outputs);
    const std::lock_guard<std::mutex> lock(workplace_->mutex);
    const OnDevice current(workplace_->device);
    Flow flow = stage(feeds);
    const auto engines = prepare(steps, flow);
    try {
      upload(flow);
      for (auto* engine : engines) {
        engine->execute(workplace_->stream);
      }
      download(flow, outputs);
    } catch (...) {
      workplace_->stream.settle();  // what was put in uses the buffers
      throw;
    }
    workplace_->stream.wait();
    return results(flow, outputs);
  }

 private:
  /// The inputs of the whole: what steps read before any other has set it.
  void find_sources() {
    std::vector<std::string> known;
    const auto is_known = [&](const std::string& tensor) {
      return std::find(known.begin(), known.end(), tensor) != known.end();
    };
    for (const auto place : running_) {
      const auto& spec = chain_->specs()[place];
      for (auto port : pieces_[place]->engine().inputs()) {
        const auto& tensor = flow_name(spec.reads, port.name);
        if (!is_known(tensor) && find(sources_, tensor) == nullptr) {
          port.name = tensor;
          sources_.push_back(port);
        }
      }
      for (const auto& item : spec.writes) {
        known.push_back(item.second);
      }
    }
    inputs_ = names_of(sources_);
  }

  const TensorView& feed_of(const std::vector<Feed>& feeds, const std::string& name) const {
    const auto found = std::find_if(feeds.begin(), feeds.end(),
                                    [&](const Feed& feed) { return feed.name == name; });
    if (found == feeds.end() || feeds.size() != sources_.size()) {
      std::vector<std::string> given;
      for (const auto& feed : feeds) {
        given.push_back(feed.name);
      }
      throw InputError(name_ + ": expected the inputs " + shorten(inputs_) + "; found " +
                       (given.empty() ? "none" : shorten(given)));
    }
    return found->value;
  }

  void check_feed(const Port& port, const TensorView& given) const {
    auto fits = given.shape.size() == port.shape.size();
    for (std::size_t axis = 0; fits && axis < given.shape.size(); ++axis) {
      fits = port.shape[axis] == -1 || port.shape[axis] == given.shape[axis];
    }
    const auto narrowed = given.type == Type::kInt64 && port.type == Type::kInt32;
    if (!fits || (given.type != port.type && !narrowed)) {
      throw InputError(name_ + ": " + port.name + " is " + name_of(given.type) + " " +
                       written(given.shape) + ", expected " + name_of(port.type) + " " +
                       written(port.shape) + " (-1: any)");
    }
    if (given.type == Type::kInt64) {
      check_row(port, *elements_of<std::int64_t>(given));
    } else if (!port.shape.empty() && port.shape.front() == -1) {
      check_batch(static_cast<std::size_t>(given.shape.front()));
    }
  }

  /// The only integers that go in. TensorRT checks nothing: a negative row would wrap around.
  void check_row(const Port& port, std::int64_t row) const {
    if (row < 0 || static_cast<std::size_t>(row) >= rows_) {
      throw InputError(name_ + ": " + port.name + " is int64 " + std::to_string(row) +
                       "; expected one integer, a row of the depth table, 0 to " +
                       std::to_string(rows_ == 0 ? 0 : rows_ - 1));
    }
  }

  void check_batch(std::size_t batch) const {
    if (batch < smallest_ || batch > largest_) {
      throw InputError(name_ + ": the batch is " + std::to_string(batch) + ", the engine takes " +
                       std::to_string(smallest_) + " to " + std::to_string(largest_) +
                       ": split or fill the batch, or build engines whose batch sizes include " +
                       std::to_string(batch));
    }
  }

  /// Puts the inputs into pinned memory, and finds them a place on the device.
  Flow stage(const std::vector<Feed>& feeds) const {
    Flow flow;
    for (const auto& port : sources_) {
      const auto& given = feed_of(feeds, port.name);
      const auto size = bytes_of(port.type, given.shape);
      auto& staging = block(workplace_->staging, port.name, Block::Where::kPinned);
      auto* const pinned = staging.reserve(size);
      if (given.type == port.type) {
        std::memcpy(pinned, given.data, size);
      } else {
        const auto* from = elements_of<std::int64_t>(given);
        std::transform(from, from + given.elements(), reinterpret_cast<std::int32_t*>(pinned),
                       [](std::int64_t value) { return static_cast<std::int32_t>(value); });
      }
      auto& source = block(workplace_->sources, port.name, Block::Where::kDevice);
      flow[port.name] = {port.type, given.shape, port.host ? pinned : source.reserve(size),
                         port.host, size,        nullptr};
    }
    return flow;
  }

  /// Tells every engine its shapes and where everything is; leaves the outputs in `flow`.
  std::vector<LoadedEngine*> prepare(const std::vector<Step>& steps, Flow& flow) const {
    std::vector<LoadedEngine*> engines;
    std::size_t scratch = 0;
    for (const auto& step : steps) {
      auto& engine = pieces_[step.piece]->engine();
      for (const auto& port : engine.inputs()) {
        const auto& value = flow.at(flow_name(step.reads, port.name));
        check_link(engine, port, value);
        engine.bind(port.name, value.address);
        engine.set_shape(port.name, value.shape);
      }
      engine.infer_shapes();
      for (const auto& port : engine.outputs()) {
        const auto value = output(step.piece, engine, port);
        for (const auto& [name, tensor] : step.writes) {
          if (name == port.name) {
            flow[tensor] = value;
          }
        }
      }
      scratch = std::max(scratch, engine.scratch());
      engines.push_back(&engine);
    }
    auto* const memory = workplace_->scratch.reserve(scratch);
    for (auto* engine : engines) {
      engine->use_scratch(memory, std::max<std::size_t>(1, scratch));
    }
    return engines;
  }

  static void check_link(const LoadedEngine& engine, const Port& port, const Value& value) {
    if (value.place != nullptr) {
      throw BundleError(engine.name() +
                        " reads a tensor whose shape depends on what is computed: export and build "
                        "the pieces again");
    }
    if (port.type != value.type || port.host != value.host) {
      const auto words = [](Type type, bool host) {
        return std::string(name_of(type)) + " on the " + (host ? "host" : "device");
      };
      throw BundleError(engine.name() + " takes " + port.name + " as " +
                        words(port.type, port.host) + ", the piece before it gives " +
                        words(value.type, value.host) + ": build the pieces again together");
    }
  }

  Value output(std::size_t piece, LoadedEngine& engine, const Port& port) const {
    if (port.host) {
      throw BundleError(engine.name() + " gives " + port.name +
                        " in memory of the host, expected on the device: build it from a graph of "
                        "this project");
    }
    Value value;
    value.type = port.type;
    value.shape = engine.shape_of(port.name);
    const auto known = std::find(value.shape.begin(), value.shape.end(), -1) == value.shape.end();
    value.most = known ? bytes_of(value.type, value.shape) : engine.most(port.name);
    auto& memory = workplace_->tensors
                       .try_emplace(std::make_pair(piece, port.name), Block::Where::kDevice)
                       .first->second;
    value.address = memory.reserve(value.most);
    if (known) {
      engine.bind(port.name, value.address);
    } else {
      value.place = std::make_shared<OutputPlace>(value.address, value.most);
      places_[{piece, port.name}] = value.place;  // TensorRT does not keep it alive
      engine.place(port.name, *value.place);
    }
    return value;
  }

  void upload(const Flow& flow) const {
    for (const auto& port : sources_) {
      const auto& value = flow.at(port.name);
      if (!port.host) {
        workplace_->stream.copy(value.address, workplace_->staging.at(port.name).data(),
                                value.most, cudaMemcpyHostToDevice);
      }
    }
  }

  void download(Flow& flow, const std::vector<std::string>& outputs) const {
    for (const auto& name : outputs) {
      auto& value = flow.at(name);
      if (value.place != nullptr) {
        if (!value.place->shape || bytes_of(value.type, *value.place->shape) > value.most) {
          throw DeviceError(name_ + ": " + name + " needs more memory than the " +
                            std::to_string(value.most) +
                            " bytes that TensorRT has named as its most");
        }
        value.shape = *value.place->shape;
      }
      auto& staging = block(workplace_->staging, name, Block::Where::kPinned);
      const auto size = bytes_of(value.type, value.shape);
      workplace_->stream.copy(staging.reserve(size), value.address, size, cudaMemcpyDeviceToHost);
    }
  }

  /// Copies of the outputs: the next run writes into the same memory.
  Tensors results(const Flow& flow, const std::vector<std::string>& outputs) const {
    Tensors found;
    for (const auto& name : outputs) {
      const auto& value = flow.at(name);
      found.emplace(name, copy_of({workplace_->staging.at(name).data(), value.type, value.shape}));
    }
    return found;
  }

  static Block& block(std::map<std::string, Block>& blocks, const std::string& name,
                      Block::Where where) {
    return blocks.try_emplace(name, where).first->second;
  }

  std::string name_;
  std::shared_ptr<Workplace> workplace_;
  std::vector<PiecePtr> pieces_;
  std::shared_ptr<const Chain> chain_;
  std::vector<std::size_t> running_;
  std::size_t rows_;
  std::vector<std::string> outputs_;
  std::vector<Port> sources_;
  std::vector<std::string> inputs_;
  std::size_t smallest_ = 1;
  std::size_t largest_ = std::numeric_limits<std::size_t>::max();
  mutable std::map<std::pair<std::size_t, std::string>, std::shared_ptr<OutputPlace>> places_;
};

class DeviceStages : public Stages {
 public:
  DeviceStages(const std::vector<Link>& links, const EngineOptions& options)
      : chain_(std::make_shared<const Chain>(specs_of(links))),
        workplace_(std::make_shared<Workplace>()),
        rows_(options.rows) {
    for (const auto& link : links) {
      pieces_.push_back(std::make_shared<Piece>(workplace_, link));
    }
  }

  EnginePtr at(const Depth& depth) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto& found = engines_[depth.text];
    if (found == nullptr) {
      const auto running = chain_->at(depth);
      const std::lock_guard<std::mutex> work(workplace_->mutex);
      const OnDevice current(workplace_->device);
      for (const auto place : running) {
        const auto& engine = pieces_[place]->engine();
        check_piece(chain_->names()[place], chain_->specs()[place], names_of(engine.inputs()),
                    names_of(engine.outputs()));
      }
      found = std::make_shared<DeviceEngine>("the chain at depth " + depth.text, workplace_,
                                             pieces_, chain_, running, rows_);
    }
    return found;
  }

 private:
  std::shared_ptr<const Chain> chain_;
  std::shared_ptr<Workplace> workplace_;
  std::size_t rows_;
  std::vector<PiecePtr> pieces_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, EnginePtr> engines_;
};

/// An engine by itself, as a chain of one piece.
StagePiece whole(const LoadedEngine& engine) {
  StagePiece piece;
  piece.stage = "network";
  piece.variant = "full";
  for (const auto& port : engine.inputs()) {
    piece.reads.emplace_back(port.name, port.name);
  }
  for (const auto& port : engine.outputs()) {
    piece.writes.emplace_back(port.name, port.name);
  }
  return piece;
}

void check_spec(const Artifact& artifact) {
  if (!artifact.engine) {
    throw UsageError(artifact.name +
                     " is an ONNX graph, which the runtime 'tensorrt' does not execute");
  }
}

}  // namespace

EnginePtr open_tensorrt(const std::filesystem::path& path, const Artifact& artifact,
                        const EngineOptions& options) {
  check_spec(artifact);
  const auto workplace = std::make_shared<Workplace>();
  const auto only = std::make_shared<Piece>(workplace, Link{path, artifact});
  const auto name = path.filename().string();
  std::vector<std::pair<std::string, StagePiece>> specs{{name, whole(only->engine())}};
  return std::make_shared<DeviceEngine>(name, workplace, std::vector<PiecePtr>{only},
                                        std::make_shared<const Chain>(std::move(specs)),
                                        std::vector<std::size_t>{0}, options.rows);
}

StagesPtr chain_tensorrt(std::vector<Link> links, const EngineOptions& options) {
  for (const auto& link : links) {
    check_spec(link.artifact);
  }
  return std::make_shared<DeviceStages>(links, options);
}

std::string tensorrt_capability() { return current_device().capability; }

std::string tensorrt_device() { return current_device().name; }

}  // namespace anydepth
