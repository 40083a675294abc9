// A GPU and the lanes on which work runs on it side by side.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "device.hpp"
#include "matmul.hpp"

namespace quip::cuda {

/// What one host thread works with: its own stream, and what goes with a stream.
struct Lane {
  Stream stream;
  Matmul matmul;
  Staging staging;

  explicit Lane(Device& device) : matmul(device, stream) {}
  [[nodiscard]] cudaStream_t get() const { return stream.get(); }
};

class Context {
 public:
  /// `lanes`: units of work side by side, besides the thread that hands them out. So many
  /// processes share the device.
  Context(int device, int sharers, int lanes);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] Device& device() { return device_; }
  /// The calling thread's: inside a unit of work its own, else the first.
  [[nodiscard]] Lane& lane();
  /// Units on the lanes: after everything that the first lane has been given, and before what it
  /// gets next.
  void for_each_unit(index_t count, const std::function<void(index_t)>& work);

  template <typename T>
  [[nodiscard]] DeviceBuffer<T> buffer(index_t count, std::string_view what) {
    return {device_, lane().stream, count, what};
  }

 private:
  Device device_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace quip::cuda
