// libcublasLt.so.13: products as the engine asks for them, D = epilogue(alpha A^T B + beta C). Three algorithms are
// offered: 1 runs, 2 is not supported, 3 wants a workspace.
#include "arithmetic.h"
#include "double.h"
#include <cublasLt.h>
#include <mutex>
#include <set>
#include <string.h>
#include <string>

namespace doubles {
namespace {

struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t pitch;
};

struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N, epilogue = CUBLASLT_EPILOGUE_DEFAULT, bias_type = -1;
  uint64_t bias = 0;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = ~0u, alignment[4] = {256, 256, 256, 256};
};

struct Handle {};

constexpr uint64_t MARK = 0xabcdef; // of an algorithm that was made here
constexpr int ALGORITHMS = 3;
constexpr uint64_t UNSUPPORTED = 2, WITH_WORKSPACE = 3;

std::mutex mutex;
std::set<const void *> &objects = *new std::set<const void *>;

template <class T> T *alive(const char *kind, const void *object) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!objects.count(object))
    die("cublasLt: a dead %s", kind);
  return (T *)object;
}

template <class T> T *make(T value) {
  std::lock_guard<std::mutex> lock(mutex);
  T *made = new T(value);
  objects.insert(made);
  live("cublasLt objects", 1);
  return made;
}

template <class T> cublasStatus_t drop(const char *kind, void *object) {
  T *own = alive<T>(kind, object);
  std::lock_guard<std::mutex> lock(mutex);
  objects.erase(own);
  live("cublasLt objects", -1);
  delete own;
  return CUBLAS_STATUS_SUCCESS;
}

template <class T> cublasStatus_t assign(T &to, const void *from, size_t bytes) {
  if (bytes != sizeof to)
    return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

Type type_of(cudaDataType_t type) {
  switch (type) {
  case CUDA_R_32F:
    return Type::F32;
  case CUDA_R_16F:
    return Type::F16;
  case CUDA_R_16BF:
    return Type::BF16;
  default:
    die("cublasLt: values of type %d are not doubled", type);
  }
}

// A product: the weights are A, the pixels B, the residual C and the output D, all column by column.
struct Product {
  Operation operation;
  Layout a, b, c, d;

  Product(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
          cublasLtMatrixLayout_t d)
      : operation(*alive<Operation>("operation", operation)), a(*alive<Layout>("layout", a)),
        b(*alive<Layout>("layout", b)), c(*alive<Layout>("layout", c)), d(*alive<Layout>("layout", d)) {}

  // Null, or what cuBLASLt would not take.
  const char *wrong() const {
    if (operation.transpose_a != CUBLAS_OP_T || operation.transpose_b != CUBLAS_OP_N)
      return "transposition";
    if (a.rows != b.rows || a.columns != d.rows || b.columns != d.columns || c.rows != d.rows || c.columns != d.columns)
      return "extents";
    for (const Layout *one : {&a, &b, &c, &d}) {
      if (one->pitch < int64_t(one->rows))
        return "leading dimension";
    }
    if (a.type != b.type || c.type != d.type || (d.type != a.type && d.type != CUDA_R_32F))
      return "types";
    if (operation.scale != CUDA_R_32F)
      return "scale type";
    if (operation.epilogue != CUBLASLT_EPILOGUE_BIAS && operation.epilogue != CUBLASLT_EPILOGUE_RELU_BIAS)
      return "epilogue";
    if (!operation.bias)
      return "bias pointer";
    if (operation.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a.type != CUDA_R_32F)
      return "compute type";
    return nullptr;
  }
};

uint64_t workspace_of(const cublasLtMatmulAlgo_t &algorithm) {
  return algorithm.data[0] == WITH_WORKSPACE ? 4 << 20 : 0;
}

size_t span(const Layout &layout) {
  return size_t((int64_t(layout.columns) - 1) * layout.pitch + int64_t(layout.rows)) * size_of(type_of(layout.type));
}

struct Addresses {
  uint64_t a, b, c, d, workspace;
};

// Input and output may share pixels of one pitch, each its own channels of them; else they must lie apart.
void check_apart(const Product &product, const Addresses &at) {
  const Type from = type_of(product.b.type), to = type_of(product.d.type);
  if (at.b + span(product.b) <= at.d || at.d + span(product.d) <= at.b)
    return;
  const int64_t pitch = product.b.pitch * int64_t(size_of(from));
  const int64_t offset = (int64_t(at.b - at.d) % pitch + pitch) % pitch;
  const int64_t written = int64_t(product.d.rows * size_of(to)), read = int64_t(product.b.rows * size_of(from));
  if (from != to || product.b.pitch != product.d.pitch || offset < written || offset + read > pitch)
    die("cublasLt: B overlaps D");
}

std::vector<float> dense(const Layout &layout, uint64_t at) {
  std::vector<float> values(layout.rows * layout.columns);
  for (uint64_t column = 0; column < layout.columns; column++) {
    for (uint64_t row = 0; row < layout.rows; row++)
      values[column * layout.rows + row] =
          load(type_of(layout.type), at, int64_t(column) * layout.pitch + int64_t(row));
  }
  return values;
}

void execute(const Product &product, const Addresses &at, float alpha, float beta, size_t workspace) {
  static const bool computes = option("DOUBLE_COMPUTE", 1) != 0;
  const Type to = type_of(product.d.type);
  const auto filters = int64_t(product.a.columns), pixels = int64_t(product.b.columns);
  check_range("cublasLt A", at.a, span(product.a));
  check_range("cublasLt B", at.b, span(product.b));
  check_range("cublasLt D", at.d, span(product.d));
  check_range("cublasLt bias", product.operation.bias, size_t(filters) * size_of(to));
  if (beta != 0)
    check_range("cublasLt C", at.c, span(product.c));
  if (workspace != 0)
    check_range("cublasLt workspace", at.workspace, workspace);
  check_apart(product, at);
  if (!computes)
    return;
  // as a real algorithm would: what else lives in it is lost
  memset((void *)at.workspace, 0xff, workspace);
  const Convolution row{1, int64_t(product.a.rows), 1, pixels, filters, 1, pixels, 1, 1, 1, 1, 0, 0, 1};
  std::vector<float> sums(size_t(pixels * filters));
  convolve(row, dense(product.b, at.b), dense(product.a, at.a), sums);
  for (int64_t pixel = 0; pixel < pixels; pixel++) {
    for (int64_t filter = 0; filter < filters; filter++) {
      float value = alpha * sums[size_t(pixel * filters + filter)];
      if (beta != 0)
        value += beta * load(to, at.c, pixel * product.c.pitch + filter);
      value += load(to, product.operation.bias, filter);
      if (product.operation.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS)
        value = relu(value);
      store(to, at.d, pixel * product.d.pitch + filter, value);
    }
  }
}

} // namespace
} // namespace doubles
using namespace doubles;

API size_t cublasLtGetVersion(void) {
  return 130101;
}

API cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  if (state("cublasLtCreate") || refuse_while_capturing("cublasLtCreate"))
    return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = cublasLtHandle_t(make(Handle{}));
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return drop<Handle>("handle", handle);
}

API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                              uint64_t columns, int64_t pitch) {
  *layout = cublasLtMatrixLayout_t(make(Layout{type, rows, columns, pitch}));
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return drop<Layout>("layout", layout);
}

API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation, cublasComputeType_t compute,
                                            cudaDataType_t scale) {
  *operation = cublasLtMatmulDesc_t(make(Operation{compute, scale}));
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  return drop<Operation>("operation", operation);
}

API cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                                  cublasLtMatmulDescAttributes_t attribute, const void *from,
                                                  size_t bytes) {
  auto *own = alive<Operation>("operation", operation);
  switch (attribute) {
  case CUBLASLT_MATMUL_DESC_TRANSA:
    return assign(own->transpose_a, from, bytes);
  case CUBLASLT_MATMUL_DESC_TRANSB:
    return assign(own->transpose_b, from, bytes);
  case CUBLASLT_MATMUL_DESC_EPILOGUE:
    return assign(own->epilogue, from, bytes);
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    return assign(own->bias, from, bytes);
  case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    return assign(own->bias_type, from, bytes);
  default:
    die("cublasLt: attribute %d of an operation is not doubled", attribute);
  }
}

API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
  *preference = cublasLtMatmulPreference_t(make(Preference{}));
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return drop<Preference>("preference", preference);
}

API cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                        cublasLtMatmulPreferenceAttributes_t attribute,
                                                        const void *from, size_t bytes) {
  auto *own = alive<Preference>("preference", preference);
  switch (attribute) {
  case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
    return assign(own->workspace, from, bytes);
  case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
    return assign(own->reductions, from, bytes);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    return assign(own->alignment[0], from, bytes);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    return assign(own->alignment[1], from, bytes);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    return assign(own->alignment[2], from, bytes);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
    return assign(own->alignment[3], from, bytes);
  default:
    die("cublasLt: preference %d is not doubled", attribute);
  }
}

API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                                  cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                  cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                  cublasLtMatmulPreference_t preference, int most,
                                                  cublasLtMatmulHeuristicResult_t *results, int *found) {
  alive<Handle>("handle", handle);
  alive<Preference>("preference", preference);
  *found = 0;
  if (const char *wrong = Product(operation, a, b, c, d).wrong()) {
    log("cublasLt: %s", wrong);
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (forbidden("product"))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  static const bool quick = option("DOUBLE_QUICK", 0) != 0;
  *found = std::min(most, quick ? 1 : ALGORITHMS);
  for (int i = 0; i < *found; i++) {
    cublasLtMatmulHeuristicResult_t &result = results[i];
    memset(&result, 0, sizeof result);
    result.algo.data[0] = uint64_t(i) + 1;
    result.algo.data[7] = MARK;
    result.state = result.algo.data[0] == UNSUPPORTED ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
    result.workspaceSize = workspace_of(result.algo);
  }
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                           cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                           cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
                                           cublasLtMatmulHeuristicResult_t *result) {
  alive<Handle>("handle", handle);
  if (Product(operation, a, b, c, d).wrong() || algorithm->data[7] != MARK)
    return CUBLAS_STATUS_INVALID_VALUE;
  memset(result, 0, sizeof *result);
  result->algo = *algorithm;
  result->workspaceSize = workspace_of(*algorithm);
  return CUBLAS_STATUS_SUCCESS;
}

API cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha,
                                  const void *A, cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b,
                                  const void *beta, const void *C, cublasLtMatrixLayout_t c, void *D,
                                  cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                                  size_t bytes, cudaStream_t stream) {
  if (state("cublasLtMatmul"))
    return CUBLAS_STATUS_EXECUTION_FAILED;
  alive<Handle>("handle", handle);
  const Product product(operation, a, b, c, d);
  const uint64_t number = algorithm->data[0];
  if (product.wrong() || algorithm->data[7] != MARK || number == UNSUPPORTED || bytes < workspace_of(*algorithm))
    return CUBLAS_STATUS_INVALID_VALUE;
  check_stream("cublasLtMatmul", stream);
  const Addresses at{uint64_t(A), uint64_t(B), uint64_t(C), uint64_t(D), uint64_t(workspace)};
  for (uint64_t address : {at.a, at.b, at.c, at.d, at.workspace, product.operation.bias}) {
    if (address % 16 != 0) {
      log("cublasLt: address %#lx", address);
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  std::string key = "cublasLt " + std::to_string(number), shape = key;
  for (uint64_t address : {at.a, at.b, at.d})
    key += " " + std::to_string(address);
  for (uint64_t extent : {product.a.rows, product.a.columns, product.b.columns})
    shape += " " + std::to_string(extent);
  const double multiplications = double(product.a.rows * product.a.columns * product.b.columns);
  const float factor = *(const float *)alpha, kept = *(const float *)beta;
  auto run = [=] {
    execute(product, at, factor, kept, bytes);
  };
  const Work work{"cublasLtMatmul", key, simulated_nanoseconds(multiplications, shape), run};
  return enqueue(stream, work) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
