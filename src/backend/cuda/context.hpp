// A GPU and the lanes on which work runs on it side by side.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "device.hpp"
#include "matmul.hpp"

namespace quip::cuda {

/// The stream of one host thread, and the handles and workspace that go with it.
struct Lane {
  Stream stream;
  Matmul matmul;
  Staging staging;

  explicit Lane(Device& device) : matmul(device, stream) {}
  [[nodiscard]] cudaStream_t get() const { return stream.get(); }
};

class Context {
 public:
  /// Opens a GPU that `sharers` processes share. `lanes`: units of work side by side, besides the
  /// thread that hands them out.
  Context(int device, int sharers, int lanes);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] Device& device() { return device_; }
  /// Returns the calling thread's lane: its own inside a unit of work, else the first.
  [[nodiscard]] Lane& lane();
  /// Runs units on the lanes, after all earlier and before all later work of the first lane.
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
