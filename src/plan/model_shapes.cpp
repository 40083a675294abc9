#include "quip/plan/model_shapes.hpp"

#include <cstring>
#include <map>
#include <utility>

#include "pipeline/job_report.hpp"

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/io/json.hpp"
#include "quip/model/checkpoint.hpp"

namespace quip::plan {
namespace {

namespace fs = std::filesystem;

/// Tensors that have a name, a type and a shape. Their elements are random numbers around ±1/170,
/// on which work takes as long as on a model's.
class ShapeSource final : public TensorSource {
 public:
  explicit ShapeSource(std::string origin) : origin_(std::move(origin)) {}

  void add(const std::string& name, DType dtype, const std::vector<index_t>& shape) {
    tensors_[name] = {name, dtype, shape};
  }
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, info] : tensors_) names.push_back(name);
    return names;
  }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return tensors_.contains(name);
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("tensor {} is not in {}", name, origin_);
    return found->second;
  }
  /// Fills 16 bits at a time, of which the sign and the end of the fraction are random, so that
  /// elements of any type are near ±1 or ±1/200.
  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    const std::uint64_t key = derive_key(0, name, "weights that are not there");
    auto word = static_cast<std::uint64_t>(offset) / 2;
    for (std::size_t i = 0; i + 2 <= out.size(); i += 2, ++word) {
      const std::uint64_t mixed = (word ^ key) * 0x9e3779b97f4a7c15;
      const auto bits =
          static_cast<std::uint16_t>(((mixed ^ (mixed >> 29)) >> 8 & 0x807f) | 0x3b80);
      std::memcpy(out.data() + i, &bits, sizeof bits);
    }
  }
  [[nodiscard]] std::string describe() const override { return origin_; }

 private:
  std::string origin_;
  std::map<std::string, TensorInfo> tensors_;
};

DType stored_type(const ModelConfig& config, const std::string& origin) {
  const nlohmann::json document = parse_json(config.text, origin);
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!document.contains(key)) continue;
    const nlohmann::json& value = document.at(key);
    if (value == "bfloat16") return DType::bf16;
    if (value == "float16") return DType::f16;
    if (value == "float32") return DType::f32;
    fail("{}: {} is {}; quip reads float32, float16 and bfloat16", origin, key, shown(value));
  }
  return DType::bf16;
}

}  // namespace

ModelShapes open_shapes(const fs::path& path) {
  if (fs::exists(path / "model.safetensors") || fs::exists(path / "model.safetensors.index.json")) {
    Checkpoint checkpoint = open_model_directory(path, true);
    return {std::move(checkpoint.source), std::move(checkpoint.family)};
  }
  const ModelConfig config = read_config(path);
  auto source = std::make_unique<ShapeSource>(path.string());
  std::unique_ptr<Family> family = make_unchecked_family(config, *source);
  const DType dtype = stored_type(config, path.string());
  for_each_tensor(*family,
                  [&](const TensorSpec& tensor) { source->add(tensor.name, dtype, tensor.shape); });
  return {std::move(source), std::move(family)};
}

}  // namespace quip::plan
