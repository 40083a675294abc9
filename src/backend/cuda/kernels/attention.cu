// Causal attention in tiles: scores exist 64 queries by a tile of keys at a time, in shared memory.
// Products run on the tensor cores (bf16 operands, fp32 sums), the softmax in fp32.
//
// A block of four warps has 64 queries of one head, a warp 16 of them. For each tile of keys, with
// m and l the running maximum and sum of a query's row:
//   S = scale · Q Kᵀ, masked;  m' = max(m, max S);  P = exp(S − m');
//   l = l·exp(m − m') + Σ P;   O = O·exp(m − m') + P V.
// Everything but K and V belongs to one warp, so that only loading them concerns the whole block.
#include <mma.h>

#include "backend/cuda/reduce.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

namespace wmma = nvcuda::wmma;
using bf16 = __nv_bfloat16;

constexpr int tile = 16;  // side of a tensor core's operands
constexpr int warps = 4;
constexpr int queries = warps * tile;
constexpr unsigned threads = warps * warp_size;

/// The layout of shared memory; rows are padded against bank conflicts. Sizes in elements, every
/// part a multiple of 128 bytes.
struct Plan {
  int dim;        ///< channels of a query and a key, rounded up to whole tiles
  int values;     ///< those of a value
  int keys;       ///< keys of a tile
  int dim_ld;     ///< rows of Q, K
  int value_ld;   ///< rows of V
  int out_ld;     ///< rows of O
  int score_ld;   ///< rows of S
  int weight_ld;  ///< rows of P

  __host__ __device__ static int round_up(int value, int unit) {
    return (value + unit - 1) / unit * unit;
  }
  __host__ __device__ Plan(int head_dim, int value_dim, int keys_of_tile)
      : dim(round_up(head_dim, tile)),
        values(round_up(value_dim, tile)),
        keys(keys_of_tile),
        dim_ld(dim + 8),
        value_ld(values + 8),
        out_ld(values + 4),
        score_ld(keys + 4),
        weight_ld(keys + 8) {}

  __host__ __device__ int q_bytes() const { return queries * dim_ld * 2; }
  __host__ __device__ int k_bytes() const { return round_up(keys * dim_ld * 2, 128); }
  __host__ __device__ int v_bytes() const { return round_up(keys * value_ld * 2, 128); }
  __host__ __device__ int score_bytes() const { return queries * score_ld * 4; }
  __host__ __device__ int weight_bytes() const { return queries * weight_ld * 2; }
  __host__ __device__ int out_bytes() const { return queries * out_ld * 4; }
  __host__ __device__ int bytes() const {
    return q_bytes() + k_bytes() + v_bytes() + score_bytes() + weight_bytes() + out_bytes();
  }
};

/// Loads columns [first, first + width) of `rows` rows of x as bf16, zero beyond the matrix and
/// these columns, to rows of `padded` elements that are `ld` apart.
__device__ void load_tile(DeviceView<const float> x, index_t first_row, int rows, index_t first_col,
                          int width, int padded, int ld, bf16* to) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * padded; i += threads) {
    const int row = i / padded;
    const int col = i % padded;
    const bool inside = first_row + row < x.rows && col < width;
    to[row * ld + col] = __float2bfloat16_rn(inside ? x(first_row + row, first_col + col) : 0.0F);
  }
}

/// Computes S [16 × keys] = Q Kᵀ of one warp.
__device__ void multiply_keys(const Plan& plan, const bf16* q, const bf16* k, float* scores) {
  for (int key = 0; key < plan.keys; key += tile) {
    wmma::fragment<wmma::accumulator, tile, tile, tile, float> sum;
    wmma::fill_fragment(sum, 0.0F);
    for (int d = 0; d < plan.dim; d += tile) {
      wmma::fragment<wmma::matrix_a, tile, tile, tile, bf16, wmma::row_major> a;
      wmma::fragment<wmma::matrix_b, tile, tile, tile, bf16, wmma::col_major> b;
      wmma::load_matrix_sync(a, q + d, static_cast<unsigned>(plan.dim_ld));
      wmma::load_matrix_sync(b, k + key * plan.dim_ld + d, static_cast<unsigned>(plan.dim_ld));
      wmma::mma_sync(sum, a, b, sum);
    }
    wmma::store_matrix_sync(scores + key, sum, static_cast<unsigned>(plan.score_ld),
                            wmma::mem_row_major);
  }
}

/// Adds P V of one warp to O [16 × values].
__device__ void multiply_values(const Plan& plan, const bf16* weights, const bf16* v, float* out) {
  for (int d = 0; d < plan.values; d += tile) {
    wmma::fragment<wmma::accumulator, tile, tile, tile, float> sum;
    wmma::load_matrix_sync(sum, out + d, static_cast<unsigned>(plan.out_ld), wmma::mem_row_major);
    for (int key = 0; key < plan.keys; key += tile) {
      wmma::fragment<wmma::matrix_a, tile, tile, tile, bf16, wmma::row_major> a;
      wmma::fragment<wmma::matrix_b, tile, tile, tile, bf16, wmma::row_major> b;
      wmma::load_matrix_sync(a, weights + key, static_cast<unsigned>(plan.weight_ld));
      wmma::load_matrix_sync(b, v + key * plan.value_ld + d, static_cast<unsigned>(plan.value_ld));
      wmma::mma_sync(sum, a, b, sum);
    }
    wmma::store_matrix_sync(out + d, sum, static_cast<unsigned>(plan.out_ld), wmma::mem_row_major);
  }
}

/// The running values of a query from tile to tile. Two lanes share a query, with equal values.
struct Running {
  float maximum = -INFINITY;
  float sum = 0.0F;
};

/// How a product of query and key becomes a score.
struct Scores {
  float scale;
  float soft_cap;
  __device__ float operator()(float product) const {
    const float score = product * scale;
    return soft_cap > 0.0F ? soft_cap * tanhf(score / soft_cap) : score;
  }
};

/// Masks and exponentiates a query's scores into `weights`, and rescales its row of O. The lane
/// takes every second element. `visible`: keys [first, last) of the tile.
__device__ void soften(const Plan& plan, Scores score_of, int first, int last,
                       const float* products, bf16* weights, float* out, Running& running) {
  const int half = static_cast<int>(threadIdx.x % 2);
  float maximum = running.maximum;
  for (int j = half; j < plan.keys; j += 2) {
    if (j >= first && j < last) maximum = fmaxf(maximum, score_of(products[j]));
  }
  maximum = fmaxf(maximum, __shfl_xor_sync(every_lane, maximum, 1));
  const float shift = maximum == -INFINITY ? 0.0F : maximum;  // no key so far
  const float keep = expf(running.maximum - shift);
  float sum = 0.0F;
  for (int j = half; j < plan.keys; j += 2) {
    float weight = 0.0F;
    if (j >= first && j < last) weight = expf(score_of(products[j]) - shift);
    sum += weight;
    weights[j] = __float2bfloat16_rn(weight);
  }
  sum += __shfl_xor_sync(every_lane, sum, 1);
  running.sum = running.sum * keep + sum;
  running.maximum = maximum;
  for (int d = half; d < plan.values; d += 2) out[d] *= keep;
}

/// The shape of attention, as the kernel needs it.
struct Heads {
  int head_dim;
  int value_dim;
  int heads_of_key;
  index_t window;
  index_t chunk;
  const float* sinks;  ///< null if there are none

  __device__ index_t first_visible(index_t query) const {
    const index_t of_window = query - window + 1 > 0 ? query - window + 1 : 0;
    const index_t of_chunk = query / chunk * chunk;
    return of_window > of_chunk ? of_window : of_chunk;
  }
};

/// Runs on a grid [tiles of queries × heads].
__global__ void __launch_bounds__(threads)
    attend(DeviceView<const float> q, DeviceView<const float> k, DeviceView<const float> v,
           Heads heads, Scores score_of, int keys_of_tile, DeviceView<float> out) {
  const Plan plan(heads.head_dim, heads.value_dim, keys_of_tile);
  auto* memory = shared_memory<unsigned char>();
  auto* q_tile = reinterpret_cast<bf16*>(memory);
  auto* k_tile = reinterpret_cast<bf16*>(memory += plan.q_bytes());
  auto* v_tile = reinterpret_cast<bf16*>(memory += plan.k_bytes());
  auto* score_tile = reinterpret_cast<float*>(memory += plan.v_bytes());
  auto* out_tile = reinterpret_cast<float*>(memory += plan.score_bytes());
  auto* weight_tile = reinterpret_cast<bf16*>(memory += plan.out_bytes());

  const index_t first_query = static_cast<index_t>(blockIdx.x) * queries;
  const index_t head = blockIdx.y;
  const index_t key_head = head / heads.heads_of_key;
  load_tile(q, first_query, queries, head * heads.head_dim, heads.head_dim, plan.dim, plan.dim_ld,
            q_tile);
  for (int i = static_cast<int>(threadIdx.x); i < queries * plan.out_ld; i += threads) {
    out_tile[i] = 0.0F;
  }

  const int warp = static_cast<int>(threadIdx.x / warp_size);
  const int row = warp * tile + static_cast<int>(threadIdx.x % warp_size) / 2;  // this lane's query
  const index_t query = first_query + row;
  const index_t first_visible = heads.first_visible(query);
  const index_t first_of_block = heads.first_visible(first_query);
  const index_t end = first_query + queries < q.rows ? first_query + queries : q.rows;
  Running running;
  if (heads.sinks != nullptr) running = {heads.sinks[head], 1.0F};
  for (index_t key = first_of_block / plan.keys * plan.keys; key < end; key += plan.keys) {
    __syncthreads();  // the previous tile is no longer needed
    load_tile(k, key, plan.keys, key_head * heads.head_dim, heads.head_dim, plan.dim, plan.dim_ld,
              k_tile);
    load_tile(v, key, plan.keys, key_head * heads.value_dim, heads.value_dim, plan.values,
              plan.value_ld, v_tile);
    __syncthreads();
    multiply_keys(plan, q_tile + warp * tile * plan.dim_ld, k_tile,
                  score_tile + warp * tile * plan.score_ld);
    __syncwarp();
    const index_t first = first_visible - key;
    const index_t last = query + 1 - key;
    soften(plan, score_of, static_cast<int>(first < plan.keys ? first : plan.keys),
           static_cast<int>(last < plan.keys ? last : plan.keys), score_tile + row * plan.score_ld,
           weight_tile + row * plan.weight_ld, out_tile + row * plan.out_ld, running);
    __syncwarp();
    multiply_values(plan, weight_tile + warp * tile * plan.weight_ld, v_tile,
                    out_tile + warp * tile * plan.out_ld);
    __syncwarp();
  }
  if (query >= q.rows) return;
  const float inverse = 1.0F / running.sum;
  for (int d = static_cast<int>(threadIdx.x % 2); d < heads.value_dim; d += 2) {
    out(query, head * heads.value_dim + d) = out_tile[row * plan.out_ld + d] * inverse;
  }
}

/// Returns the largest tile of keys that fits; 0 if none does.
int choose_keys(const AttentionShape& shape, std::size_t shared_memory) {
  constexpr index_t widest = 1024;  // beyond it sizes would not fit in int
  if (shape.head_dim > widest || shape.values() > widest) return 0;
  for (const int keys : {64, 32, 16}) {
    const Plan plan(static_cast<int>(shape.head_dim), static_cast<int>(shape.values()), keys);
    if (at(plan.bytes()) <= shared_memory) return keys;
  }
  return 0;
}

}  // namespace

bool attention_fits(std::size_t shared_memory, const AttentionShape& shape) {
  return choose_keys(shape, shared_memory) > 0;
}

void attention(cudaStream_t stream, std::size_t shared_memory, ConstTensorView q, ConstTensorView k,
               ConstTensorView v, const AttentionShape& shape, ConstTensorView sinks,
               TensorView out) {
  if (q.size() == 0) return;
  const int keys = choose_keys(shape, shared_memory);
  const Heads heads{static_cast<int>(shape.head_dim),
                    static_cast<int>(shape.values()),
                    static_cast<int>(shape.heads / shape.kv_heads),
                    shape.window.value_or(q.rows),
                    shape.chunk.value_or(q.rows),
                    sinks.data};
  const Plan plan(heads.head_dim, heads.value_dim, keys);
  const dim3 grid(blocks_for(q.rows, queries), static_cast<unsigned>(shape.heads));
  launch("attention", attend, grid, threads, at(plan.bytes()), stream, q, k, v, heads,
         Scores{shape.scale, shape.soft_cap}, keys, out);
}

}  // namespace quip::cuda
