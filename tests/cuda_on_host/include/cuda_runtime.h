// The part of the CUDA runtime that src/backend/cuda uses, on the host: kernels run as plain C++,
// "device memory" is host memory. For tests where there is no device; see ../README.md.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ __thread  // not thread_local: it needs an initialiser's wrapper
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
  dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)  // NOLINT: as in CUDA
      : x(x_size), y(y_size), z(z_size) {}
};
struct alignas(4) char4 {
  signed char x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline char4 make_char4(signed char x, signed char y, signed char z, signed char w) {
  return {x, y, z, w};
}

// What a thread of a kernel can ask.
extern thread_local dim3 threadIdx;
extern thread_local dim3 blockIdx;
extern thread_local dim3 blockDim;
extern thread_local dim3 gridDim;

namespace cuda_on_host {

/// In which order the threads of a block run from one barrier to the next. A kernel that lacks a
/// barrier gives another result in one of them.
enum class Order { ascending, descending };
void set_order(Order wanted);
/// Bytes of "device memory" that can still be had; and how many are in use.
void set_memory(std::size_t bytes);
[[nodiscard]] std::size_t memory_in_use();
void set_devices(int count);
/// From now on events never happen, as if a kernel waited for another rank that does not come.
void set_stalled(bool now);

void run(const std::function<void()>& thread, dim3 grid, dim3 size, std::size_t shared);
void block_barrier();
void warp_barrier();
/// Where lane `lane` of this thread's warp leaves 8 bytes for the others.
[[nodiscard]] void* lane_slot(int lane);
[[nodiscard]] int lane();
[[nodiscard]] bool lane_exists(int lane);

template <typename T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 8);
  std::memcpy(lane_slot(lane()), &value, sizeof(T));
  warp_barrier();
  if (lane_exists(from)) std::memcpy(&value, lane_slot(from), sizeof(T));
  warp_barrier();
  return value;
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::block_barrier(); }
inline void __syncwarp() { cuda_on_host::warp_barrier(); }
template <typename T>
T __shfl_xor_sync(unsigned /*mask*/, T value, int lanes) {
  return cuda_on_host::exchange(value, cuda_on_host::lane() ^ lanes);
}

inline unsigned __reduce_min_sync(unsigned /*mask*/, unsigned value) {
  std::memcpy(cuda_on_host::lane_slot(cuda_on_host::lane()), &value, sizeof value);
  cuda_on_host::warp_barrier();
  for (int lane = 0; lane < 32 && cuda_on_host::lane_exists(lane); ++lane) {
    unsigned other;
    std::memcpy(&other, cuda_on_host::lane_slot(lane), sizeof other);
    value = other < value ? other : value;
  }
  cuda_on_host::warp_barrier();
  return value;
}

// Threads of a grid run one after the other: plain updates are atomic.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old | value;
  return old;
}

inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline int __float2int_rn(float x) { return static_cast<int>(std::lrint(x)); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0F) : 0.0F; }
/// Rounds towards zero. Only for sums that fp64 holds exactly, in the normal range of fp32.
inline float __fmaf_rz(float a, float b, float c) {
  const double exact = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  std::uint64_t bits;
  std::memcpy(&bits, &exact, sizeof bits);
  bits &= ~((std::uint64_t{1} << 29) - 1);  // beyond the digits of fp32
  double cut;
  std::memcpy(&cut, &bits, sizeof cut);
  return static_cast<float>(cut);
}
/// Bytes of `a` (0 … 3) and `b` (4 … 7), chosen by the four lowest digits of `selector`.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = (static_cast<std::uint64_t>(b) << 32) | a;
  const auto byte = [&](unsigned i) {
    return static_cast<unsigned>(both >> ((selector >> (4 * i) & 7U) * 8) & 0xffU) << (8 * i);
  };
  return byte(0) | byte(1) | byte(2) | byte(3);
}
// Half-word by half-word, min(a + b, c).
inline unsigned __viaddmin_u16x2(unsigned a, unsigned b, unsigned c) {
  const unsigned low = (a + b) & 0xffffU;
  const unsigned high = ((a >> 16) + (b >> 16)) & 0xffffU;
  return (low < (c & 0xffffU) ? low : c & 0xffffU) | (high < c >> 16 ? high : c >> 16) << 16;
}
inline unsigned __viaddmin_s16x2(unsigned a, unsigned b, unsigned c) {
  constexpr unsigned signs = 0x80008000U;
  return __viaddmin_u16x2(a ^ signs, b, c ^ signs) ^ signs;
}
// Rounded as they stand, never fused.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) {
  const volatile double product = a * b;
  return product;
}

// ---- the host's side ----

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600
};
enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeDevice = 2 };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

using cudaStream_t = struct CudaOnHostStream*;
using cudaEvent_t = struct CudaOnHostEvent*;

struct cudaDeviceProp {
  char name[256];
  int major;
  int minor;
  int multiProcessorCount;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream);
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* /*kernel*/, cudaFuncAttribute /*attribute*/, int value) {
  return value <= 232448 ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  cuda_on_host::run([&] { std::apply(kernel, values); }, config->gridDim, config->blockDim,
                    config->dynamicSmemBytes);
  return cudaSuccess;
}
