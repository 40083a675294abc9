#include "quip/io/decoded_source.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr index_t elements_at_once = index_t{1} << 18;
constexpr index_t float_bytes = sizeof(float);

// mxfp4
constexpr std::string_view blocks_suffix = "_blocks";
constexpr index_t block_elements = 32;
constexpr index_t block_bytes = 16;
constexpr int exponent_bias = 127;
constexpr int exponent_nan = 255;

/// Returns the values of F8_E4M3: a sign, four bits of exponent, three of fraction. The format has
/// no infinity; all ones are NaN.
std::array<float, 256> make_fp8_values() {
  std::array<float, 256> values{};
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15;
    const int fraction = bits & 7;
    float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                               : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
    if ((bits & 127) == 127) size = NAN;
    values[static_cast<std::size_t>(bits)] = bits < 128 ? size : -size;
  }
  return values;
}

/// The values of F4: a sign, two bits of exponent, one of fraction.
constexpr std::array<float, 16> fp4_values = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,
                                              4.0F,  6.0F,  -0.0F, -0.5F, -1.0F, -1.5F,
                                              -2.0F, -3.0F, -4.0F, -6.0F};

index_t blocks_in(index_t extent, index_t block) { return (extent + block - 1) / block; }

class DecodedSource final : public TensorSource {
 public:
  DecodedSource(std::unique_ptr<TensorSource> stored, const WeightFormat& format,
                const std::set<std::string>& wanted)
      : stored_(std::move(stored)), format_(format) {
    for (const std::string& name : stored_->names()) {
      if (!wanted.contains(name)) continue;
      if (format.kind == WeightFormat::Kind::fp8) {
        add_fp8(stored_->info(name));
      } else if (name.ends_with(blocks_suffix)) {
        add_mxfp4(stored_->info(name));
      }
    }
    for (const auto& [name, tensor] : tensors_) scales_.insert(tensor.scales);
  }

  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names = stored_->names();
    std::erase_if(names, [&](const std::string& name) { return scales_.contains(name); });
    return names;
  }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return stored_->contains(name) && !scales_.contains(name);
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? stored_->info(name) : found->second.info;
  }
  [[nodiscard]] std::string describe() const override { return stored_->describe(); }

  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return stored_->read(name, offset, out);
    require_range(*this, found->second.info, offset, std::ssize(out));
    std::vector<float> values;
    for (index_t done = 0; done < std::ssize(out);) {
      // Callers may ask for parts of an element.
      const index_t first = (offset + done) / float_bytes;
      const index_t skipped = offset + done - first * float_bytes;
      const index_t bytes =
          std::min(std::ssize(out) - done, elements_at_once * float_bytes - skipped);
      values.resize(at((skipped + bytes + float_bytes - 1) / float_bytes));
      decode(found->second, first, values);
      std::memcpy(out.data() + done, std::as_bytes(std::span(values)).data() + skipped, at(bytes));
      done += bytes;
    }
  }

  void fetch(const std::string& name, index_t offset, index_t bytes) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return stored_->fetch(name, offset, bytes);
    const index_t share = is_fp8() ? float_bytes : 2 * float_bytes;  // bytes made of a stored one
    stored_->fetch(name, offset / share, blocks_in(bytes, share));
  }

 private:
  struct Decoded {
    TensorInfo info;
    std::string scales;
  };

  [[nodiscard]] bool is_fp8() const { return format_.kind == WeightFormat::Kind::fp8; }

  void add(const TensorInfo& tensor, std::vector<index_t> shape, const std::string& scales,
           const std::vector<index_t>& scales_shape) {
    if (!stored_->contains(scales)) {
      fail("tensor {} is not in {}: it holds the scales of {}", scales, describe(), tensor.name);
    }
    const TensorInfo& found = stored_->info(scales);
    if (found.shape != scales_shape) {
      fail("tensor {} of {} has shape {}, but the blocks of {} ask for {}", scales, describe(),
           found.shape, tensor.name, scales_shape);
    }
    if (is_fp8() ? !computes_with(found.dtype) : found.dtype != DType::u8) {
      fail("tensor {} of {} has dtype {}, which no scales of {} have", scales, describe(),
           to_string(found.dtype), tensor.name);
    }
    Decoded& decoded = tensors_[tensor.name];
    decoded.info = {tensor.name, DType::f32, std::move(shape)};
    decoded.scales = scales;
  }

  void add_fp8(const TensorInfo& tensor) {
    if (tensor.dtype != DType::f8_e4m3) return;
    if (tensor.shape.size() != 2) {
      fail("tensor {} of {} has shape {}; weights in fp8 are matrices", tensor.name, describe(),
           tensor.shape);
    }
    add(tensor, tensor.shape, tensor.name + "_scale_inv",
        {blocks_in(tensor.shape[0], format_.block_rows),
         blocks_in(tensor.shape[1], format_.block_cols)});
  }

  void add_mxfp4(const TensorInfo& tensor) {
    std::vector<index_t> shape = tensor.shape;
    if (shape.size() < 2 || shape.back() != block_bytes || tensor.dtype != DType::u8) {
      fail("tensor {} of {} is {} of shape {}; mxfp4 has blocks of {} bytes, in U8", tensor.name,
           describe(), to_string(tensor.dtype), shape, block_bytes);
    }
    shape.pop_back();
    const std::vector<index_t> scales_shape = shape;
    shape.back() *= block_elements;
    const std::string base = tensor.name.substr(0, tensor.name.size() - blocks_suffix.size());
    add(tensor, std::move(shape), base + "_scales", scales_shape);
  }

  void decode(const Decoded& tensor, index_t first, std::span<float> out) const {
    if (is_fp8()) {
      decode_fp8(tensor, first, out);
    } else {
      decode_mxfp4(tensor, first, out);
    }
  }

  void decode_fp8(const Decoded& tensor, index_t first, std::span<float> out) const {
    static const std::array<float, 256> value_of = make_fp8_values();
    std::vector<std::byte> stored(out.size());
    stored_->read(tensor.info.name, first, stored);
    const index_t cols = tensor.info.shape[1];
    std::vector<float> scales(at(blocks_in(cols, format_.block_cols)));
    index_t scales_row = -1;
    const index_t end = first + std::ssize(out);
    for (index_t e = first; e < end;) {
      const index_t row = e / cols;
      if (row / format_.block_rows != scales_row) {
        scales_row = row / format_.block_rows;
        read_scales(tensor, scales_row, scales);
      }
      const index_t block = e % cols / format_.block_cols;
      const float scale = scales[at(block)];
      const index_t last =
          std::min(end, row * cols + std::min(cols, (block + 1) * format_.block_cols));
      for (; e < last; ++e) {
        const float value = value_of[static_cast<std::size_t>(stored[at(e - first)])];
        if (std::isnan(value)) {
          fail("tensor {} of {}: element {} (row-major) is a NaN; the checkpoint is damaged",
               tensor.info.name, describe(), e);
        }
        out[at(e - first)] = value * scale;
      }
    }
  }

  /// Reads the scales of a row of blocks.
  void read_scales(const Decoded& tensor, index_t row, std::span<float> scales) const {
    read_floats(*stored_, tensor.scales, row * std::ssize(scales), scales);
    const auto zero = std::ranges::find(scales, 0.0F);
    if (zero == scales.end()) return;
    fail("tensor {} of {}: the scale of block ({}, {}) is 0; the checkpoint is damaged",
         tensor.scales, describe(), row, zero - scales.begin());
  }

  void decode_mxfp4(const Decoded& tensor, index_t first, std::span<float> out) const {
    const index_t end = first + std::ssize(out);
    std::vector<std::byte> pairs(at((end + 1) / 2 - first / 2));
    stored_->read(tensor.info.name, first / 2, pairs);
    const index_t first_block = first / block_elements;
    std::vector<std::byte> exponents(at(blocks_in(end, block_elements) - first_block));
    stored_->read(tensor.scales, first_block, exponents);
    for (index_t e = first; e < end;) {
      const index_t block = e / block_elements;
      const auto exponent = static_cast<int>(exponents[at(block - first_block)]);
      if (exponent == exponent_nan) {
        fail("tensor {} of {}: the exponent of block {} is {}, a NaN; the checkpoint is damaged",
             tensor.scales, describe(), block, exponent);
      }
      const float scale = std::ldexp(1.0F, exponent - exponent_bias);
      for (const index_t last = std::min(end, (block + 1) * block_elements); e < last; ++e) {
        const auto pair = static_cast<unsigned>(pairs[at(e / 2 - first / 2)]);
        out[at(e - first)] = fp4_values[e % 2 == 0 ? pair & 15U : pair >> 4] * scale;
      }
    }
  }

  std::unique_ptr<TensorSource> stored_;
  WeightFormat format_;
  std::map<std::string, Decoded> tensors_;
  std::set<std::string> scales_;
};

}  // namespace

std::unique_ptr<TensorSource> decode_weights(std::unique_ptr<TensorSource> stored,
                                             const WeightFormat& format,
                                             const std::set<std::string>& wanted) {
  if (format.kind == WeightFormat::Kind::plain) return stored;
  return std::make_unique<DecodedSource>(std::move(stored), format, wanted);
}

}  // namespace quip
