#include "int8_kernels.hpp"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "int8_slices.hpp"

namespace quip::cpu {

#if defined(__x86_64__) && defined(__linux__)
namespace {

constexpr index_t tile_bytes = Int8Slices::tile_bytes;

// ---- AMX: 16 × 64 · 64 × 16 bytes in one instruction, eight tile registers ----

/// The operand of LDTILECFG: palette 1, eight tiles of 16 rows × 64 bytes.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfiguration tile_configuration;

__attribute__((target("amx-tile"))) void amx_begin() { _tile_loadconfig(&tile_configuration); }
__attribute__((target("amx-tile"))) void amx_end() { _tile_release(); }

/// Multiplies: tiles 0–3 hold c, 4–5 two groups of the left factor, 6–7 two of the right.
__attribute__((target("amx-tile,amx-int8"))) void amx_multiply(const std::int8_t* left,
                                                               const std::int8_t* right,
                                                               index_t steps,
                                                               const std::int32_t* /*left_sums*/,
                                                               bool accumulate, std::int32_t* c) {
  constexpr index_t stride = block_side * sizeof(std::int32_t);
  std::int32_t* lower = c + 16 * block_side;
  if (accumulate) {
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + 16, stride);
    _tile_loadd(2, lower, stride);
    _tile_loadd(3, lower + 16, stride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const index_t next_group = steps * tile_bytes;
  for (index_t step = 0; step < steps; ++step, left += tile_bytes, right += tile_bytes) {
    _tile_loadd(4, left, 64);
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + next_group, 64);
    _tile_loadd(5, left + next_group, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, c, stride);
  _tile_stored(1, c + 16, stride);
  _tile_stored(2, lower, stride);
  _tile_stored(3, lower + 16, stride);
}

/// True if the kernel grants the 8 KiB of tile registers, for which a process has to ask.
bool amx_permitted() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned tile_and_int8 = (1U << 24) | (1U << 25);
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  if ((edx & tile_and_int8) != tile_and_int8) return false;
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// ---- AVX-512 VNNI: 16 channels × 4 tokens in one instruction ----

void vnni_nothing() {}

/// Multiplies eight channels of the left factor, of bytes `rows`, by 32 of the right. The
/// instruction wants one unsigned factor: b + 128 is, and Σ a·(b + 128) − 128·Σ a = Σ a·b.
__attribute__((target("avx512f,avx512vnni"))) void vnni_rows(const std::int8_t* rows,
                                                             const std::int8_t* right,
                                                             index_t steps,
                                                             const std::int32_t* left_sums,
                                                             bool accumulate, std::int32_t* c) {
  constexpr int row_count = 8;
  const __m512i flip = _mm512_set1_epi32(static_cast<int>(0x80808080U));
  __m512i total[row_count][2];
  for (int i = 0; i < row_count; ++i) {
    const __m512i correction = _mm512_set1_epi32(128 * left_sums[i]);
    for (int j = 0; j < 2; ++j) {
      const __m512i start =
          accumulate ? _mm512_loadu_si512(c + i * block_side + 16 * j) : _mm512_setzero_si512();
      total[i][j] = _mm512_sub_epi32(start, correction);
    }
  }
  const index_t next_group = steps * tile_bytes;
  for (index_t step = 0; step < steps; ++step, rows += tile_bytes, right += tile_bytes) {
    for (int quad = 0; quad < 16; ++quad) {
      const __m512i b0 = _mm512_xor_si512(flip, _mm512_load_si512(right + 64 * quad));
      const __m512i b1 = _mm512_xor_si512(flip, _mm512_load_si512(right + next_group + 64 * quad));
#pragma GCC unroll 8
      for (int i = 0; i < row_count; ++i) {
        std::int32_t four_tokens;
        __builtin_memcpy(&four_tokens, rows + 64 * i + 4 * quad, sizeof(four_tokens));
        const __m512i a = _mm512_set1_epi32(four_tokens);
        total[i][0] = _mm512_dpbusd_epi32(total[i][0], b0, a);
        total[i][1] = _mm512_dpbusd_epi32(total[i][1], b1, a);
      }
    }
  }
  for (int i = 0; i < row_count; ++i) {
    for (int j = 0; j < 2; ++j) _mm512_storeu_si512(c + i * block_side + 16 * j, total[i][j]);
  }
}

void vnni_multiply(const std::int8_t* left, const std::int8_t* right, index_t steps,
                   const std::int32_t* left_sums, bool accumulate, std::int32_t* c) {
  for (index_t row = 0; row < block_side; row += 8) {
    const std::int8_t* rows = left + (row / 16) * steps * tile_bytes + (row % 16) * 64;
    vnni_rows(rows, right, steps, left_sums + row, accumulate, c + row * block_side);
  }
}

}  // namespace

const Int8Kernel* amx_kernel() {
  static const Int8Kernel kernel = {amx_begin, amx_multiply, amx_end};
  static const bool permitted = amx_permitted();
  return permitted ? &kernel : nullptr;
}

const Int8Kernel* vnni_kernel() {
  static const Int8Kernel kernel = {vnni_nothing, vnni_multiply, vnni_nothing};
  return __builtin_cpu_supports("avx512vnni") ? &kernel : nullptr;
}

#else

const Int8Kernel* amx_kernel() { return nullptr; }
const Int8Kernel* vnni_kernel() { return nullptr; }

#endif

}  // namespace quip::cpu
