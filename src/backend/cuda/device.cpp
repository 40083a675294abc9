#include "device.hpp"

#include <algorithm>
#include <cstring>

#include "check.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

constexpr std::size_t reserve = std::size_t{512} << 20;    // cuBLAS, cuSOLVER, kernels themselves
constexpr std::size_t piece_bytes = std::size_t{8} << 20;  // some 300 µs of a PCIe 4 link

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

Stream::Stream() { QUIP_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
Stream::~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
void Stream::synchronize() const { QUIP_CUDA(cudaStreamSynchronize(stream_)); }

Event::Event() { QUIP_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
Event::~Event() { static_cast<void>(cudaEventDestroy(event_)); }
void Event::record(const Stream& stream) const { QUIP_CUDA(cudaEventRecord(event_, stream.get())); }
void Event::synchronize() const { QUIP_CUDA(cudaEventSynchronize(event_)); }

Device::Device(int number) : number_(number) {
  use();
  cudaDeviceProp properties{};
  QUIP_CUDA(cudaGetDeviceProperties(&properties, number));
  name_ = fmt::format("{} (sm_{}{})", properties.name, properties.major, properties.minor);
  std::size_t free_bytes = 0;
  QUIP_CUDA(cudaMemGetInfo(&free_bytes, &total_));
  int shared = 0;
  QUIP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, number));
  shared_memory_ = static_cast<std::size_t>(shared);
}

void Device::use() const { QUIP_CUDA(cudaSetDevice(number_)); }

std::string Device::describe() const {
  return fmt::format("GPU {}: {}, {:.0f} GiB", number_, name_, gib(total_));
}

std::size_t Device::available() const {
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  QUIP_CUDA(cudaMemGetInfo(&free_bytes, &total));
  const std::size_t kept = std::min(reserve, total / 16);
  return free_bytes > kept ? free_bytes - kept : 0;
}

void* Device::allocate(std::size_t bytes, std::string_view what, const Stream& stream) {
  void* pointer = nullptr;
  const cudaError_t code = cudaMallocAsync(&pointer, bytes, stream.get());
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next call reports it again
    fail(
        "GPU {}: no {:.2f} GiB for {}: {:.2f} of {:.2f} GiB are in use here; use more GPUs or "
        "nodes "
        "(more ranks), or fewer --samples",
        number_, gib(bytes), what, gib(used_), gib(total_));
  }
  check(code, "cudaMallocAsync", __FILE__, __LINE__);
  const std::size_t now = used_ += bytes;
  std::size_t most = most_used_;
  while (now > most && !most_used_.compare_exchange_weak(most, now)) {
  }
  return pointer;
}

void Device::free(void* pointer, std::size_t bytes, cudaStream_t stream) noexcept {
  static_cast<void>(cudaFreeAsync(pointer, stream));
  used_ -= bytes;
}

PinnedBuffer::PinnedBuffer(std::size_t bytes) : bytes_(bytes) {
  void* pointer = nullptr;
  QUIP_CUDA(cudaMallocHost(&pointer, bytes));
  data_.reset(static_cast<std::byte*>(pointer));
}

void PinnedBuffer::Free::operator()(std::byte* pointer) const noexcept {
  static_cast<void>(cudaFreeHost(pointer));
}

Staging::Piece::Piece() : memory(piece_bytes) {}
Staging::Staging() = default;

void Staging::upload(const Stream& stream, const void* from, void* to, std::size_t to_pitch,
                     std::size_t width, std::size_t rows) {
  const std::size_t rows_at_once =
      std::max<std::size_t>(1, piece_bytes / std::max<std::size_t>(width, 1));
  const std::size_t width_at_once = std::min(width, piece_bytes);
  int turn = 0;
  for (std::size_t row = 0; row < rows; row += rows_at_once) {
    const std::size_t count = std::min(rows_at_once, rows - row);
    for (std::size_t col = 0; col < width; col += width_at_once) {
      const std::size_t part = std::min(width_at_once, width - col);
      Piece& piece = pieces_[turn];
      turn = 1 - turn;
      piece.done.synchronize();  // what it held has left it
      std::memcpy(piece.memory.data(), static_cast<const std::byte*>(from) + row * width + col,
                  count * part);
      QUIP_CUDA(cudaMemcpy2DAsync(static_cast<std::byte*>(to) + row * to_pitch + col, to_pitch,
                                  piece.memory.data(), part, part, count, cudaMemcpyHostToDevice,
                                  stream.get()));
      piece.done.record(stream);
    }
  }
}

void Staging::download(const Stream& stream, const void* from, std::size_t from_pitch, void* to,
                       std::size_t width, std::size_t rows) {
  struct Pending {
    std::byte* to = nullptr;
    std::size_t bytes = 0;
  } pending[2];
  const auto finish = [&](int i) {
    if (pending[i].bytes == 0) return;
    pieces_[i].done.synchronize();
    std::memcpy(pending[i].to, pieces_[i].memory.data(), pending[i].bytes);
    pending[i].bytes = 0;
  };
  pieces_[0].done.synchronize();
  pieces_[1].done.synchronize();
  const std::size_t rows_at_once =
      std::max<std::size_t>(1, piece_bytes / std::max<std::size_t>(width, 1));
  const std::size_t width_at_once = std::min(width, piece_bytes);
  int turn = 0;
  for (std::size_t row = 0; row < rows; row += rows_at_once) {
    const std::size_t count = std::min(rows_at_once, rows - row);
    for (std::size_t col = 0; col < width; col += width_at_once) {
      const std::size_t part = std::min(width_at_once, width - col);
      finish(turn);
      QUIP_CUDA(cudaMemcpy2DAsync(pieces_[turn].memory.data(), part,
                                  static_cast<const std::byte*>(from) + row * from_pitch + col,
                                  from_pitch, part, count, cudaMemcpyDeviceToHost, stream.get()));
      pieces_[turn].done.record(stream);
      pending[turn] = {static_cast<std::byte*>(to) + row * width + col, count * part};
      turn = 1 - turn;
    }
  }
  finish(turn);
  finish(1 - turn);
}

}  // namespace quip::cuda
