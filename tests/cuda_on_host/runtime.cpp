// Memory, streams and devices. Everything happens at once, as if each stream were synchronised
// after every call.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "cuda_runtime.h"

namespace {

constexpr std::size_t margin = 256;
constexpr unsigned char poison = 0xff;

std::atomic<std::size_t> limit = std::size_t{8} << 30;
std::atomic<std::size_t> used = 0;
int devices_of_environment() {
  const char* text = std::getenv("CUDA_ON_HOST_DEVICES");
  return text == nullptr ? 1 : std::atoi(text);
}
std::atomic<int> devices = devices_of_environment();
std::atomic<bool> stalled = false;
std::mutex mutex;
std::unordered_map<void*, std::size_t>& blocks() {
  static auto* const map = new std::unordered_map<void*, std::size_t>;
  return *map;
}

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "cuda_on_host: %s\n", what);
  std::abort();
}

}  // namespace

namespace cuda_on_host {
void set_memory(std::size_t bytes) { limit = bytes; }
std::size_t memory_in_use() { return used; }
void set_devices(int count) { devices = count; }
void set_stalled(bool now) { stalled = now; }
}  // namespace cuda_on_host

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "invalid argument";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < devices ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  *properties = {"emulated on the host", 9, 0, 1};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr /*attribute*/, int /*device*/) {
  *value = 232448;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = limit;
  *free = limit - std::min<std::size_t>(limit, used);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

// Fills memory with NaNs and adds a margin that nobody may touch.
cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t /*stream*/) {
  const std::lock_guard lock(mutex);
  if (bytes == 0 || used + bytes > limit) return cudaErrorMemoryAllocation;
  const std::size_t whole = (bytes + margin + 255) / 256 * 256;
  *pointer = std::aligned_alloc(256, whole);
  if (*pointer == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*pointer, poison, whole);
  blocks()[*pointer] = bytes;
  used += bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t /*stream*/) {
  if (pointer == nullptr) return cudaSuccess;
  const std::lock_guard lock(mutex);
  const auto found = blocks().find(pointer);
  if (found == blocks().end()) die("freeing memory that was not allocated");
  const unsigned char* end = static_cast<unsigned char*>(pointer) + found->second;
  if (std::any_of(end, end + margin, [](unsigned char b) { return b != poison; })) {
    die("a kernel wrote beyond an allocation");
  }
  used -= found->second;
  blocks().erase(found);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind /*kind*/,
                            cudaStream_t /*stream*/) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind /*kind*/, cudaStream_t /*stream*/) {
  if (height > 1 && (to_pitch < width || from_pitch < width)) return cudaErrorInvalidValue;
  for (std::size_t i = 0; i < height; ++i) {
    std::memcpy(static_cast<char*>(to) + i * to_pitch,
                static_cast<const char*>(from) + i * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t /*stream*/) {
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t /*stream*/) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t /*stream*/, cudaEvent_t /*event*/,
                                unsigned /*flags*/) {
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = nullptr;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t /*event*/) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t /*event*/, cudaStream_t /*stream*/) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t /*event*/) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t /*event*/) {
  return stalled ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const std::lock_guard lock(mutex);
  const auto* address = static_cast<const unsigned char*>(pointer);
  const bool device = std::any_of(blocks().begin(), blocks().end(), [&](const auto& block) {
    const auto* first = static_cast<const unsigned char*>(block.first);
    return address >= first && address < first + block.second;
  });
  attributes->type = device ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
