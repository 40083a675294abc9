// Copies between host and device, with element types and shapes.
#pragma once

#include <span>
#include <string_view>

#include "context.hpp"

namespace quip::cuda {

/// Copies to the device, shapes being equal. Returns when `host` may be overwritten.
template <typename T>
void upload(Lane& lane, MatrixView<const T> host, MatrixView<T> device) {
  if (host.size() == 0) return;
  lane.staging.upload(lane.stream, host.data, at(host.ld) * sizeof(T), device.data,
                      at(device.ld) * sizeof(T), at(host.cols) * sizeof(T), at(host.rows));
}

/// Copies to the host, shapes being equal. Returns when the host has it.
template <typename T>
void download(Lane& lane, MatrixView<const T> device, MatrixView<T> host) {
  if (host.size() == 0) return;
  lane.staging.download(lane.stream, device.data, at(device.ld) * sizeof(T), host.data,
                        at(host.ld) * sizeof(T), at(host.cols) * sizeof(T), at(host.rows));
}

template <typename T>
void upload(Lane& lane, std::span<const T> host, T* device) {
  const auto count = static_cast<index_t>(host.size());
  upload<T>(lane, MatrixView<const T>(host.data(), 1, count), MatrixView<T>(device, 1, count));
}

template <typename T>
void download(Lane& lane, const T* device, std::span<T> host) {
  const auto count = static_cast<index_t>(host.size());
  download<T>(lane, MatrixView<const T>(device, 1, count), MatrixView<T>(host.data(), 1, count));
}

/// Returns host values in a new buffer.
template <typename T>
[[nodiscard]] DeviceBuffer<T> to_device(Context& context, std::span<const T> values,
                                        std::string_view what) {
  auto buffer = context.buffer<T>(static_cast<index_t>(values.size()), what);
  upload<T>(context.lane(), values, buffer.data());
  return buffer;
}

}  // namespace quip::cuda
