// OpenVINO, on CPUs, in FP32 or BF16. Four of its habits decide how it is used here:
//
// - If nodes cost it a tenth to a half of a call, and with a batch that is left dynamic they give
//   wrong results (OpenVINO 2025.0 and 2026.4). An If whose predicate is a constant it resolves when
//   it compiles. So a gated graph is compiled once for each depth that is run, with the row of the
//   depth as a constant, for any batch size; the depths used last are kept.
// - The precision it computes FP32 graphs in is its own choice unless it is told, and BF16 on every
//   CPU that has the instructions. So it is always told, and asked what it made of that.
// - FP16 graphs are computed in FP32, their weights stored in half the memory.
// - Gather gives zeros for a row past the end of a table, which is a depth nobody asked for. So the
//   row is checked before each run.

#include <algorithm>
#include <exception>
#include <mutex>
#include <openvino/frontend/manager.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/openvino.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "../processors.hpp"
#include "../tensors.hpp"
#include "anydepth/errors.hpp"
#include "kept_depths.hpp"
#include "registry.hpp"

namespace anydepth {
namespace {

// Depths of a gated graph that stay compiled, the latest used: each holds the weights of its
// convolutions in an order of its own.
constexpr std::size_t kKeptDepths = 8;

constexpr const char* kDevice = "CPU";
constexpr const char* kDepth = "depth";

const std::vector<std::pair<Type, ov::element::Type>>& types() {
  static const std::vector<std::pair<Type, ov::element::Type>> known{
      {Type::kFloat32, ov::element::f32}, {Type::kFloat16, ov::element::f16},
      {Type::kInt64, ov::element::i64},   {Type::kInt32, ov::element::i32},
      {Type::kBool, ov::element::boolean}, {Type::kUInt8, ov::element::u8},
      {Type::kInt8, ov::element::i8},
  };
  return known;
}

ov::element::Type type_to(Type type) {
  const auto& known = types();
  return std::find_if(known.begin(), known.end(), [&](const auto& item) {
           return item.first == type;
         })->second;
}

Type type_from(const ov::element::Type& type) {
  for (const auto& [ours, theirs] : types()) {
    if (theirs == type) {
      return ours;
    }
  }
  throw InputError("OpenVINO gives an output of type " + type.get_type_name() +
                   ", which this library does not know");
}

std::string version() {
  const std::string build = ov::get_openvino_version().buildNumber;
  return build.substr(0, build.find('-'));
}

/// The line of an OpenVINO error that says what happened; the others say where in its code.
std::string reason(const std::exception& error) {
  std::istringstream text(error.what());
  std::string first;
  for (std::string line; std::getline(text, line);) {
    const auto begin = line.find_first_not_of(" \t\r");
    if (begin == std::string::npos) {
      continue;
    }
    line = line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
    first = first.empty() ? line : first;
    const auto starts = [&](const char* word) { return line.rfind(word, 0) == 0; };
    if (!starts("Exception from ") && !starts("Check '") && !starts("FrontEnd API failed") &&
        !starts("While ")) {
      return line;
    }
  }
  return first.empty() ? "unknown" : first;
}

/// The name of an output as the file has it; the tensor itself may go by several.
std::string output_name(const ov::Output<ov::Node>& port) {
  const std::string sink = "/sink_port_0";
  const auto name = port.get_node()->get_friendly_name();
  const auto end = name.rfind(sink);
  const bool last = end != std::string::npos && end + sink.size() == name.size();
  return last ? name.substr(0, end) : name;
}

/// One for the process: it holds the plugins, which are costly to load. Never released, since
/// sessions may outlive the end of main.
ov::Core& core() {
  static auto& made = *new ov::Core;
  return made;
}

/// A compiled model and the one request that runs it.
class Compiled {
 public:
  Compiled(const ov::CompiledModel& model, const std::vector<std::string>& outputs)
      : request_(ov::CompiledModel(model).create_infer_request()) {
    const auto& ports = model.outputs();
    for (std::size_t place = 0; place < outputs.size(); ++place) {
      ports_.emplace(outputs[place], ports[place]);
    }
  }

  Tensors run(const std::vector<Feed>& feeds, const std::vector<std::string>& outputs) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& feed : feeds) {
      const auto& view = feed.value;
      // Inputs are used where they are; OpenVINO only reads them.
      request_.set_tensor(feed.name, ov::Tensor(type_to(view.type),
                                                ov::Shape(view.shape.begin(), view.shape.end()),
                                                const_cast<void*>(view.data)));
    }
    request_.infer();
    Tensors found;
    for (const auto& name : outputs) {
      found.emplace(name, output(name));
    }
    return found;
  }

 private:
  /// A copy: the next run writes into the same memory.
  Tensor output(const std::string& name) {
    const auto port = ports_.find(name);
    if (port == ports_.end()) {
      throw InputError("the graph has no output " + name);
    }
    const auto tensor = request_.get_tensor(port->second);
    const auto& shape = tensor.get_shape();
    const TensorView view{tensor.data(), type_from(tensor.get_element_type()),
                          {shape.begin(), shape.end()}};
    // OpenVINO may compute in int32 what the file declares as int64.
    return view.type == Type::kInt32 ? widened(Tensor{nullptr, view}) : copy_of(view);
  }

  std::mutex mutex_;
  ov::InferRequest request_;
  std::map<std::string, ov::Output<const ov::Node>> ports_;
};

/// A graph compiled once for each depth. Runs of the same depth wait for each other: a compiled model
/// computes one at a time. Who runs a depth that is compiled does not wait for another's compilation.
class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const std::filesystem::path& path, const EngineOptions& options)
      : file_(path.filename().string()),
        rows_(options.rows),
        depths_(options.kept_depths ? static_cast<std::size_t>(*options.kept_depths)
                                    : kKeptDepths) {
    try {
      check_compute(options.compute);
      hint_ = options.compute == "bf16" ? ov::element::bf16 : ov::element::f32;
      settings_ = {ov::hint::inference_precision(hint_), ov::num_streams(1)};
      if (options.threads) {
        settings_.insert(ov::inference_num_threads(*options.threads));
      }
      // The reader is named: OpenVINO would try those of all formats on a damaged file.
      ov::frontend::FrontEndManager readers;
      const auto reader = readers.load_by_framework("onnx");
      model_ = reader->convert(reader->load(path.string()));
      for (const auto& port : model_->inputs()) {
        inputs_.push_back(port.get_any_name());
      }
      for (const auto& port : model_->outputs()) {
        outputs_.push_back(output_name(port));
      }
      gated_ = std::find(inputs_.begin(), inputs_.end(), kDepth) != inputs_.end();
      // Compiled now, so that what cannot be compiled shows here and not in the first run.
      at(gated_ ? options.super : 0);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw BundleError("OpenVINO " + version() + " cannot load " + path.string() + ": " +
                        reason(error));
    }
  }

  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }

  void prepare(std::size_t row) const override { at(gated_ ? row : 0); }

  Tensors run(const std::vector<Feed>& feeds,
              const std::vector<std::string>& outputs) const override {
    auto given = take_fed(feeds);
    std::set<std::int64_t> sizes;
    for (const auto& feed : given.rest) {
      sizes.insert(feed.value.shape.empty() ? -1 : feed.value.shape.front());
    }
    if (sizes.size() != 1 || *sizes.begin() < 0) {
      throw InputError(file_ + ": its inputs are of different batch sizes");
    }
    try {
      return at(given.row)->run(given.rest, outputs);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw InputError(file_ + ": " + reason(error));
    }
  }

 private:
  static void check_compute(const std::string& compute) {
    const auto has = core().get_property(kDevice, ov::device::capabilities);
    if (compute == "bf16" &&
        std::find(has.begin(), has.end(), ov::device::capability::BF16) == has.end()) {
      throw UsageError("this CPU has no BF16 instructions for OpenVINO: use compute fp32");
    }
  }

  FedDepth take_fed(const std::vector<Feed>& feeds) const {
    return take_depth(feeds, inputs_, rows_, file_);
  }

  /// The model compiled for this depth.
  std::shared_ptr<Compiled> at(std::size_t row) const {
    return depths_.at(row, [&] { return compile(row); });
  }

  std::shared_ptr<Compiled> compile(std::size_t row) const {
    const auto model = model_->clone();
    if (gated_) {
      fix_depth(*model, row);
    }
    auto compiled = core().compile_model(model, kDevice, settings_);
    const auto found = compiled.get_property(ov::hint::inference_precision);
    if (found != hint_) {
      throw UsageError("OpenVINO " + version() + " computes " + file_ + " in " +
                       found.get_type_name() + " although " + hint_.get_type_name() +
                       " was asked for: choose another precision or runtime");
    }
    if (has_if(compiled)) {  // with any batch size it would give wrong results
      throw UsageError("OpenVINO " + version() + " does not resolve the depths of " + file_ +
                       ": export the bundle with --layout set, or use another version");
    }
    return std::make_shared<Compiled>(compiled, outputs_);
  }

  /// Makes the input `depth` a constant, after which the model is of this depth alone.
  static void fix_depth(ov::Model& model, std::size_t row) {
    const auto parameters = model.get_parameters();
    const auto depth = std::find_if(parameters.begin(), parameters.end(), [](const auto& item) {
      return item->get_friendly_name() == kDepth;
    });
    if (depth == parameters.end()) {
      throw std::runtime_error("the graph has no input depth");  // reported by who compiles
    }
    const auto constant = ov::op::v0::Constant::create(ov::element::i64, ov::Shape{},
                                                       {static_cast<std::int64_t>(row)});
    (*depth)->output(0).replace(constant->output(0));
    model.remove_parameter(*depth);
  }

  static bool has_if(const ov::CompiledModel& compiled) {
    for (const auto& node : compiled.get_runtime_model()->get_ops()) {
      const auto& known = node->get_rt_info();
      const auto kind = known.find("layerType");
      if (kind != known.end() && kind->second.as<std::string>() == "If") {
        return true;
      }
    }
    return false;
  }

  std::string file_;
  std::size_t rows_;
  ov::element::Type hint_;
  ov::AnyMap settings_;
  std::shared_ptr<ov::Model> model_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
  bool gated_ = false;
  mutable KeptDepths<Compiled> depths_;
};

}  // namespace

std::string openvino_version() { return version(); }

EnginePtr open_openvino(const std::filesystem::path& path, const Artifact& artifact,
                        const EngineOptions& options) {
  if (artifact.target && lacks_vnni().value_or(false)) {
    throw UsageError(path.filename().string() +
                     " is INT8, and OpenVINO loses sums of 8-bit products on a CPU without VNNI, as "
                     "this one is (13 AP at base of the tiny AnyDepth-DETR): use ONNX Runtime, which "
                     "does not, or another precision");
  }
  return std::make_shared<OpenVinoEngine>(path, options);
}

}  // namespace anydepth
