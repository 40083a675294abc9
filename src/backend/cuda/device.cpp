#include "device.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

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

Device::Device(int number, int sharers) : number_(number), sharers_(at(sharers)) {
  use();
  cudaDeviceProp properties{};
  QUIP_CUDA(cudaGetDeviceProperties(&properties, number));
  name_ = fmt::format("{} (sm_{}{})", properties.name, properties.major, properties.minor);
  processors_ = properties.multiProcessorCount;
  std::size_t free_bytes = 0;
  QUIP_CUDA(cudaMemGetInfo(&free_bytes, &total_));
  int shared = 0;
  QUIP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, number));
  shared_memory_ = at(shared);
  kept_ = total() / 8;
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
  const std::size_t part = (total - kept) / sharers_;  // a fair share: the others take theirs
  const std::size_t free_part = free_bytes > kept ? free_bytes - kept : 0;
  return std::min(free_part, part > used_ ? part - used_ : 0);
}

bool Device::has_room_for_samples(std::size_t bytes) const {
  const std::size_t work = used_ - samples_;
  return bytes + (kept_ > work ? kept_ - work : 0) <= available();
}

void* Device::allocate(std::size_t bytes, std::string_view what, const Stream& stream, Use use) {
  void* pointer = nullptr;
  const cudaError_t code = cudaMallocAsync(&pointer, bytes, stream.get());
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // otherwise the next call reports it again
    fail(
        "GPU {}: no {:.2f} GiB for {}: {:.2f} of {:.2f} GiB are in use here; use more GPUs or "
        "nodes "
        "(more ranks), or fewer --samples",
        number_, gib(bytes), what, gib(used_), gib(total_));
  }
  check(code, "cudaMallocAsync", __FILE__, __LINE__);
  if (use == Use::samples) samples_ += bytes;
  const std::size_t now = used_ += bytes;
  std::size_t most = most_used_;
  while (now > most && !most_used_.compare_exchange_weak(most, now)) {
  }
  return pointer;
}

void Device::free(void* pointer, std::size_t bytes, cudaStream_t stream, Use use) noexcept {
  static_cast<void>(cudaFreeAsync(pointer, stream));
  if (use == Use::samples) samples_ -= bytes;
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

namespace {

/// The part of a copy's rows that fits in one piece.
struct Rectangle {
  std::size_t row;
  std::size_t col;
  std::size_t rows;
  std::size_t width;
};

template <typename Visit>
void for_rectangles(std::size_t width, std::size_t rows, const Visit& visit) {
  const std::size_t most_width = std::min(width, piece_bytes);
  const std::size_t most_rows = width == 0 ? rows : piece_bytes / most_width;
  for (std::size_t row = 0; row < rows && width > 0; row += most_rows) {
    for (std::size_t col = 0; col < width; col += most_width) {
      visit({row, col, std::min(most_rows, rows - row), std::min(most_width, width - col)});
    }
  }
}

/// Copies rows from host to host.
void copy_rows(const std::byte* from, std::size_t from_pitch, std::byte* to, std::size_t to_pitch,
               const Rectangle& part) {
  if (from_pitch == part.width && to_pitch == part.width) {
    std::memcpy(to, from, part.rows * part.width);
    return;
  }
  for (std::size_t i = 0; i < part.rows; ++i) {
    std::memcpy(to + i * to_pitch, from + i * from_pitch, part.width);
  }
}

}  // namespace

void Staging::upload(const Stream& stream, const void* from, std::size_t from_pitch, void* to,
                     std::size_t to_pitch, std::size_t width, std::size_t rows) {
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  int turn = 0;
  for_rectangles(width, rows, [&](const Rectangle& part) {
    Piece& piece = pieces_[turn];
    turn = 1 - turn;
    piece.done.synchronize();  // its content has been copied
    copy_rows(source + part.row * from_pitch + part.col, from_pitch, piece.memory.data(),
              part.width, part);
    QUIP_CUDA(cudaMemcpy2DAsync(target + part.row * to_pitch + part.col, to_pitch,
                                piece.memory.data(), part.width, part.width, part.rows,
                                cudaMemcpyHostToDevice, stream.get()));
    piece.done.record(stream);
  });
}

void Staging::download(const Stream& stream, const void* from, std::size_t from_pitch, void* to,
                       std::size_t to_pitch, std::size_t width, std::size_t rows) {
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  std::optional<Rectangle> pending[2];
  const auto finish = [&](int i) {
    if (!pending[i]) return;
    pieces_[i].done.synchronize();
    copy_rows(pieces_[i].memory.data(), pending[i]->width,
              target + pending[i]->row * to_pitch + pending[i]->col, to_pitch, *pending[i]);
    pending[i].reset();
  };
  for (const Piece& piece : pieces_) piece.done.synchronize();
  int turn = 0;
  for_rectangles(width, rows, [&](const Rectangle& part) {
    finish(turn);
    QUIP_CUDA(cudaMemcpy2DAsync(pieces_[turn].memory.data(), part.width,
                                source + part.row * from_pitch + part.col, from_pitch, part.width,
                                part.rows, cudaMemcpyDeviceToHost, stream.get()));
    pieces_[turn].done.record(stream);
    pending[turn] = part;
    turn = 1 - turn;
  });
  finish(turn);
  finish(1 - turn);
}

}  // namespace quip::cuda
