// cublasLt is column-major: a row-major [r × c] matrix is to it a [c × r] one, transposed. So C = A
// Bᵀ becomes Cᵀ = (Bᵀ)ᵀ Aᵀ: its first operand is our B, transposed, the second our A. Only in this
// form it multiplies bytes.
#include "matmul.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

constexpr std::uint32_t operand_alignment = 16;

std::uint32_t alignment_of(const void* pointer, index_t row_bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return address % 16 == 0 && row_bytes % 16 == 0 ? 16 : 4;
}

class Layout {
 public:
  Layout(cudaDataType type, index_t rows, index_t cols, index_t ld) {
    QUIP_CUDA(cublasLtMatrixLayoutCreate(&layout_, type, static_cast<std::uint64_t>(cols),
                                         static_cast<std::uint64_t>(rows), ld));
  }
  ~Layout() { static_cast<void>(cublasLtMatrixLayoutDestroy(layout_)); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  [[nodiscard]] cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class Description {
 public:
  Description(cublasComputeType_t compute, cudaDataType scale) {
    QUIP_CUDA(cublasLtMatmulDescCreate(&desc_, compute, scale));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    QUIP_CUDA(cublasLtMatmulDescSetAttribute(desc_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                             sizeof transposed));
  }
  ~Description() { static_cast<void>(cublasLtMatmulDescDestroy(desc_)); }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  [[nodiscard]] cublasLtMatmulDesc_t get() const { return desc_; }

 private:
  cublasLtMatmulDesc_t desc_ = nullptr;
};

class Preference {
 public:
  /// Takes the alignment of C in bytes.
  explicit Preference(std::uint32_t alignment) {
    QUIP_CUDA(cublasLtMatmulPreferenceCreate(&preference_));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, at(matmul_workspace_bytes));
    // The default is 256 bytes, which the middle of a matrix does not have.
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, operand_alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, operand_alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
  }
  ~Preference() { static_cast<void>(cublasLtMatmulPreferenceDestroy(preference_)); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  [[nodiscard]] cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, T value) const {
    QUIP_CUDA(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value));
  }

  cublasLtMatmulPreference_t preference_ = nullptr;
};

}  // namespace

struct Matmul::Plan {
  Description description;
  Layout a;
  Layout b;
  Layout c;
  cublasLtMatmulAlgo_t algo{};

  Plan(bool bytes, index_t m, index_t n, index_t k, index_t lda, index_t ldb, index_t ldc,
       std::uint32_t /*alignment*/)
      : description(bytes ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                    bytes ? CUDA_R_32I : CUDA_R_32F),
        a(bytes ? CUDA_R_8I : CUDA_R_16BF, m, k, lda),
        b(bytes ? CUDA_R_8I : CUDA_R_16BF, n, k, ldb),
        c(bytes ? CUDA_R_32I : CUDA_R_32F, m, n, ldc) {}
};

Matmul::Matmul(Device& device, const Stream& stream)
    : stream_(stream),
      workspace_(device, stream, matmul_workspace_bytes, "the workspace of cublasLt") {
  QUIP_CUDA(cublasLtCreate(&handle_));
}

Matmul::~Matmul() { static_cast<void>(cublasLtDestroy(handle_)); }

const Matmul::Plan& Matmul::plan_for(const Key& key) {
  auto& plan = plans_[key];
  if (plan) return *plan;
  auto made = std::apply([](auto... sizes) { return std::make_unique<Plan>(sizes...); }, key);
  const Preference preference(std::get<7>(key));
  cublasLtMatmulHeuristicResult_t choice{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, made->description.get(), made->b.get(), made->a.get(), made->c.get(), made->c.get(),
      preference.get(), 1, &choice, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    fail("GPU: cublasLt has no way to multiply [{} × {}] by [{} × {}]ᵀ of {}; use --backend cpu",
         std::get<1>(key), std::get<3>(key), std::get<2>(key), std::get<3>(key),
         std::get<0>(key) ? "int8" : "bf16");
  }
  made->algo = choice.algo;
  plan = std::move(made);
  return *plan;
}

void Matmul::run(const Key& key, const void* a, const void* b, const void* beta, void* c) {
  const Plan& plan = plan_for(key);
  const float one = 1.0F;
  const std::int32_t integer_one = 1;
  const void* alpha = std::get<0>(key) ? static_cast<const void*>(&integer_one) : &one;
  QUIP_CUDA(cublasLtMatmul(handle_, plan.description.get(), alpha, b, plan.b.get(), a, plan.a.get(),
                           beta, c, plan.c.get(), c, plan.c.get(), &plan.algo, workspace_.data(),
                           workspace_.bytes(), stream_.get()));
}

void Matmul::multiply(MatrixView<const __nv_bfloat16> a, MatrixView<const __nv_bfloat16> b,
                      bool add, MatrixView<float> c) {
  const float beta = add ? 1.0F : 0.0F;
  run({false, a.rows, b.rows, a.cols, a.ld, b.ld, c.ld, alignment_of(c.data, 4 * c.ld)}, a.data,
      b.data, &beta, c.data);
}

void Matmul::multiply(MatrixView<const std::int8_t> a, MatrixView<const std::int8_t> b, bool add,
                      MatrixView<std::int32_t> c) {
  const std::int32_t beta = add ? 1 : 0;
  run({true, a.rows, b.rows, a.cols, a.ld, b.ld, c.ld, alignment_of(c.data, 4 * c.ld)}, a.data,
      b.data, &beta, c.data);
}

}  // namespace quip::cuda
