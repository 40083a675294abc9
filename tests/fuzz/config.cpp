// config.json, and the family that is made of it, before a checkpoint that fits small models.
#include "quip/model/config.hpp"

#include <map>

#include "answers.hpp"

#include "quip/model/checkpoint.hpp"
#include "quip/model/rope.hpp"

namespace {

using namespace quip;

constexpr const char* llama_config = R"({"model_type": "llama", "hidden_size": 8,
  "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
  "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 16})";
constexpr const char* opt_config = R"({"model_type": "opt", "hidden_size": 8, "ffn_dim": 12,
  "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 10,
  "max_position_embeddings": 16})";

/// Shapes without data.
class Shapes final : public TensorSource {
 public:
  void add(const std::string& name, std::vector<index_t> shape) {
    tensors_[name] = {name, DType::f32, std::move(shape)};
  }
  [[nodiscard]] std::vector<std::string> names() const override { return {}; }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return tensors_.contains(name);
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("no tensor {}", name);
    return found->second;
  }
  void read(const std::string& name, index_t /*offset*/, std::span<std::byte>) const override {
    fail("{} has no data", name);
  }
  [[nodiscard]] std::string describe() const override { return "shapes"; }

 private:
  std::map<std::string, TensorInfo> tensors_;
};

void add_tensors(const Family& family, Shapes& shapes) {
  for_each_tensor(family, [&](const TensorSpec& t) { shapes.add(t.name, t.shape); });
}

const Shapes& checkpoint() {
  static const auto* const shapes = [] {
    auto* all = new Shapes;
    add_tensors(*make_unchecked_family(parse_config(llama_config, "llama"), *all), *all);
    all->add("model.decoder.embed_tokens.weight", {10, 8});  // settles OPT's naming
    add_tensors(*make_unchecked_family(parse_config(opt_config, "opt"), *all), *all);
    return all;
  }();
  return *shapes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::succeeds([&] {
    const ModelConfig config = parse_config(fuzz::text_of(data, size), "config.json");
    const auto family = make_family(config, checkpoint());
    const auto frequencies = rope_frequencies(config.rope, config.head_dim);
    fuzz::require(std::ssize(frequencies) == config.head_dim / 2);
  });
  return 0;
}
