// Tensors in memory, in place of a checkpoint's files.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/io/tensor_source.hpp"

namespace quip::test {

/// Tensors by name.
class MemorySource final : public TensorSource {
 public:
  /// Sets F32 elements; a shape without them is enough where nothing is read.
  void set(const std::string& name, std::vector<index_t> shape,
           const std::vector<float>& values = {}) {
    const auto bytes = std::as_bytes(std::span(values));
    tensors_[name] = {{name, DType::f32, std::move(shape)}, {bytes.begin(), bytes.end()}};
  }
  /// Sets elements of 8 bits.
  void set_bytes(const std::string& name, DType dtype, std::vector<index_t> shape,
                 const std::vector<std::uint8_t>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    tensors_[name] = {{name, dtype, std::move(shape)}, {bytes.begin(), bytes.end()}};
  }
  void erase(const std::string& name) { tensors_.erase(name); }
  /// Adds random finite elements.
  void add(const std::string& name, DType dtype, std::vector<index_t> shape, unsigned seed) {
    TensorInfo info{name, dtype, std::move(shape)};
    std::vector<std::byte> bytes(static_cast<std::size_t>(info.bytes()));
    std::mt19937 random(seed);
    // Below 0x78 the top byte of no float type makes a NaN or an infinity.
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 0x78);
    tensors_[name] = {std::move(info), std::move(bytes)};
  }
  /// Adds 16-bit elements, as they are stored.
  void add_half(const std::string& name, DType dtype, const std::vector<std::uint16_t>& elements) {
    const auto bytes = std::as_bytes(std::span(elements));
    tensors_[name] = {{name, dtype, {std::ssize(elements)}}, {bytes.begin(), bytes.end()}};
  }
  void add_float(const std::string& name, const std::vector<float>& elements) {
    set(name, {std::ssize(elements)}, elements);
  }
  [[nodiscard]] const std::vector<std::byte>& bytes(const std::string& name) const {
    return tensors_.at(name).second;
  }

  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return tensors_.contains(name);
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    if (!contains(name)) fail("memory: no tensor {}", name);
    return tensors_.at(name).first;
  }
  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    const auto first = bytes(name).begin() + offset;
    std::copy(first, first + std::ssize(out), out.begin());
  }
  [[nodiscard]] std::string describe() const override { return "memory"; }

 private:
  std::map<std::string, std::pair<TensorInfo, std::vector<std::byte>>> tensors_;
};

}  // namespace quip::test
