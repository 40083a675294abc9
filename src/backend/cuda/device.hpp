// Streams, events and memory of one GPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include <cuda_runtime.h>

#include "quip/core/matrix.hpp"

namespace quip::cuda {

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  [[nodiscard]] cudaEvent_t get() const noexcept { return event_; }
  void record(const Stream& stream) const;
  void synchronize() const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// The GPU of this process, and the use of its memory. All sizes in bytes.
class Device {
 public:
  /// The use of memory: activations of all samples, which may also lie in host memory, or work.
  enum class Use { work, samples };

  /// Makes GPU `number` the calling thread's; `sharers` processes share its memory.
  Device(int number, int sharers);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /// Makes it the current GPU of the calling thread.
  void use() const;
  [[nodiscard]] int number() const { return number_; }
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] std::size_t shared_memory_of_block() const { return shared_memory_; }
  [[nodiscard]] int processors() const { return processors_; }
  [[nodiscard]] std::size_t total() const { return total_ / sharers_; }
  [[nodiscard]] std::size_t most_used() const { return most_used_; }
  /// Returns the free bytes of this process's part of the device, less a reserve for the libraries.
  [[nodiscard]] std::size_t available() const;
  /// Keeps this many bytes for work, those in use included; an eighth of the device at first.
  void keep_for_work(std::size_t bytes) { kept_ = bytes; }
  [[nodiscard]] bool has_room_for_samples(std::size_t bytes) const;

  /// Allocates on `stream`, for use by later work there. Throws Error naming `what` if it does not
  /// fit.
  [[nodiscard]] void* allocate(std::size_t bytes, std::string_view what, const Stream& stream,
                               Use use = Use::work);
  void free(void* pointer, std::size_t bytes, cudaStream_t stream, Use use = Use::work) noexcept;

 private:
  int number_;
  std::string name_;
  std::size_t sharers_;
  std::size_t total_ = 0;
  std::size_t shared_memory_ = 0;
  int processors_ = 0;
  std::size_t kept_ = 0;
  std::atomic<std::size_t> used_ = 0;
  std::atomic<std::size_t> samples_ = 0;
  std::atomic<std::size_t> most_used_ = 0;
};

/// Owning array on the device, freed in the order of its stream. Move-only, uninitialised.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device& device, const Stream& stream, index_t count, std::string_view what)
      : device_(&device), stream_(stream.get()), size_(count) {
    if (count > 0) data_ = static_cast<T*>(device.allocate(bytes(), what, stream));
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer taken(std::move(other));
    swap(taken);
    return *this;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() {
    if (data_ != nullptr) device_->free(data_, bytes(), stream_);
  }

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] index_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const { return at(size_) * sizeof(T); }
  [[nodiscard]] MatrixView<T> view(index_t rows, index_t cols) const { return {data_, rows, cols}; }
  [[nodiscard]] MatrixView<const T> cview(index_t rows, index_t cols) const {
    return {data_, rows, cols};
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  Device* device_ = nullptr;
  cudaStream_t stream_ = nullptr;
  T* data_ = nullptr;
  index_t size_ = 0;
};

/// Page-locked host memory, which copies run from and to at full speed.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(std::size_t bytes);
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* pointer) const noexcept;
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t bytes_;
};

/// Copies between pageable host memory and the device through two page-locked pieces, so that one
/// is on its way while the other is filled or emptied.
class Staging {
 public:
  Staging();
  /// Copies rows of `width` bytes, `from_pitch` and `to_pitch` bytes apart. Returns when `from` may
  /// be overwritten; the copy itself is ordered on `stream`.
  void upload(const Stream& stream, const void* from, std::size_t from_pitch, void* to,
              std::size_t to_pitch, std::size_t width, std::size_t rows);
  /// Copies rows back. Returns when `to` is complete.
  void download(const Stream& stream, const void* from, std::size_t from_pitch, void* to,
                std::size_t to_pitch, std::size_t width, std::size_t rows);

 private:
  struct Piece {
    PinnedBuffer memory;
    Event done;
    Piece();
  };
  Piece pieces_[2];
};

}  // namespace quip::cuda
