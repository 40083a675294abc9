// Tensors in memory, in place of a checkpoint's files.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/io/tensor_source.hpp"

namespace quip::test {

/// F32 tensors by name.
class MemorySource final : public TensorSource {
 public:
  void set(const std::string& name, std::vector<index_t> shape, std::vector<float> values = {}) {
    tensors_[name] = {{name, DType::f32, std::move(shape)}, std::move(values)};
  }
  void erase(const std::string& name) { tensors_.erase(name); }

  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors_) result.push_back(name);
    return result;
  }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return tensors_.count(name) != 0;
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    return find(name).info;
  }
  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    const auto bytes = std::as_bytes(std::span(find(name).values));
    std::memcpy(out.data(), bytes.data() + offset, out.size());
  }
  [[nodiscard]] std::string describe() const override { return "memory"; }

 private:
  struct Stored {
    TensorInfo info;
    std::vector<float> values;
  };
  [[nodiscard]] const Stored& find(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("tensor {} is not in memory", name);
    return found->second;
  }

  std::map<std::string, Stored> tensors_;
};

}  // namespace quip::test
