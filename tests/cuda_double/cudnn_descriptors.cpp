// libcudnn.so.9: handles and descriptors. Attributes are kept as they are set, and held against a table of what each
// descriptor takes; what is linked must live and be finalized.
#include "cudnn.h"
#include <mutex>
#include <set>
#include <stdarg.h>
#include <stdio.h>

namespace doubles {

static std::mutex mutex;
static auto &descriptors = *new std::set<const void *>;
static auto &handles = *new std::set<const void *>;
static thread_local std::string last_error;

Status fail(Status status, const char *format, ...) {
  char message[2048];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  last_error = message;
  log("cudnn %d: %s", status, message);
  return status;
}

Descriptor *alive(const void *descriptor) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!descriptors.count(descriptor))
    die("cudnn: descriptor %p is not alive", descriptor);
  return (Descriptor *)descriptor;
}

Handle *alive_handle(const void *handle) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!handles.count(handle))
    die("cudnn: handle %p is not alive", handle);
  return (Handle *)handle;
}

Descriptor *linked(const Descriptor *from, int name) {
  void *to = one<void *>(from, name);
  if (!to)
    die("cudnn: attribute %d of descriptor %d is not set", name, from->kind);
  return alive(to);
}

static size_t size_of_value(int type) {
  switch (type) {
  case CUDNN_TYPE_HANDLE:
  case CUDNN_TYPE_BACKEND_DESCRIPTOR:
  case CUDNN_TYPE_VOID_PTR:
  case CUDNN_TYPE_INT64:
  case CUDNN_TYPE_DOUBLE:
    return 8;
  case CUDNN_TYPE_BOOLEAN:
    return 1;
  default:
    return 4;
  }
}

// What a descriptor takes: how many values of which type.
struct Rule {
  int kind, name, type;
  int64_t least, most;
  bool needed;
};

// clang-format off
static const Rule RULES[] = {
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, 4, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, 4, true},
    {CUDNN_BACKEND_TENSOR_DESCRIPTOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, false},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, 1, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, 2, true},
    {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, 2, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, false},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
    {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 8, true},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, true},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, 1, true},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, 1, true},
    {CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, 1, true},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 64, false},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
    {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, 16, true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, 16, true},
    {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, true},
};
// clang-format on

static const Rule *rule_of(int kind, int name) {
  for (const Rule &rule : RULES) {
    if (rule.kind == kind && rule.name == name)
      return &rule;
  }
  return nullptr;
}

static Status check_attributes(const Descriptor *descriptor) {
  for (const Rule &rule : RULES) {
    if (rule.kind == descriptor->kind && rule.needed && !descriptor->attributes.count(rule.name))
      return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d of descriptor %d is not set", rule.name, rule.kind);
  }
  for (auto &[name, attribute] : descriptor->attributes) {
    if (attribute.type == CUDNN_TYPE_HANDLE)
      alive_handle(one<void *>(descriptor, name));
    if (attribute.type != CUDNN_TYPE_BACKEND_DESCRIPTOR)
      continue;
    for (void *to : list<void *>(descriptor, name)) {
      if (!alive(to)->finalized)
        return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d links to what is not finalized", name);
    }
  }
  return OK;
}

static Status finalize(Descriptor *descriptor) {
  if (Status status = check_attributes(descriptor))
    return status;
  Tensor tensor;
  Chain chain;
  switch (descriptor->kind) {
  case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
    return read_tensor(descriptor, tensor);
  case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
    return read_chain(descriptor, chain);
  case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
    return finalize_heuristics(descriptor);
  case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
    return finalize_engine(descriptor);
  case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
    return finalize_plan(descriptor);
  case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: {
    const size_t identifiers = list<int64_t>(descriptor, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).size();
    if (identifiers != list<void *>(descriptor, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).size())
      return fail(CUDNN_STATUS_BAD_PARAM, "not as many pointers as identifiers");
    return OK;
  }
  default:
    return OK;
  }
}

// The real library's descriptors of these.
static std::vector<void *> real_ones(const void *const *own, int64_t count) {
  std::vector<void *> real;
  for (int64_t i = 0; i < count; i++)
    real.push_back(alive(own[i])->real);
  return real;
}

} // namespace doubles
using namespace doubles;

API size_t cudnnGetVersion(void) {
  return 92801;
}

API const char *cudnnGetErrorString(cudnnStatus_t) {
  return "an error of the double";
}

API void cudnnGetLastErrorString(char *to, size_t bytes) {
  snprintf(to, bytes, "%s", last_error.c_str());
}

// ---- handles ----

API cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
  if (state("cudnnCreate") || refuse_while_capturing("cudnnCreate"))
    return CUDNN_STATUS_NOT_INITIALIZED;
  auto *made = new Handle;
  std::lock_guard<std::mutex> lock(mutex);
  handles.insert(made);
  live("cudnn handles", 1);
  *handle = cudnnHandle_t(made);
  return OK;
}

API cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  Handle *own = alive_handle(handle);
  // the library waits for the handle's stream
  if (own->stream)
    check_stream("cudnnDestroy", own->stream);
  std::lock_guard<std::mutex> lock(mutex);
  handles.erase(own);
  live("cudnn handles", -1);
  delete own;
  return OK;
}

API cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  check_stream("cudnnSetStream", stream);
  alive_handle(handle)->stream = stream;
  return OK;
}

// ---- descriptors ----

API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t kind,
                                               cudnnBackendDescriptor_t *descriptor) {
  auto made = std::make_unique<Descriptor>();
  made->kind = kind;
  if (real::used()) {
    if (Status status = real::create(kind, &made->real))
      return status;
  }
  std::lock_guard<std::mutex> lock(mutex);
  descriptors.insert(made.get());
  live("cudnn descriptors", 1);
  *descriptor = made.release();
  return OK;
}

API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  Descriptor *own = alive(descriptor);
  if (own->real)
    real::destroy(own->real);
  *own->lives = false;
  std::lock_guard<std::mutex> lock(mutex);
  descriptors.erase(own);
  live("cudnn descriptors", -1);
  delete own;
  return OK;
}

API cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t count, const void *from) {
  Descriptor *own = alive(descriptor);
  if (own->finalized)
    return fail(CUDNN_STATUS_BAD_PARAM, "descriptor %d is finalized", own->kind);
  const Rule *rule = rule_of(own->kind, name);
  if (!rule)
    return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d is not one of descriptor %d", name, own->kind);
  if (rule->type != type)
    return fail(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d is of type %d, not %d", name, rule->type, type);
  if (count < rule->least || count > rule->most || !from)
    return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d has %ld values", name, long(count));
  const char *bytes = (const char *)from;
  own->attributes[name] = Attribute{type, count, {bytes, bytes + size_t(count) * size_of_value(type)}};
  // the double's handles are none of the real library's
  if (!own->real || type == CUDNN_TYPE_HANDLE)
    return OK;
  if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR)
    return real::set(own->real, name, type, count, from);
  return real::set(own->real, name, type, count, real_ones((const void *const *)from, count).data());
}

API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  Descriptor *own = alive(descriptor);
  if (own->finalized)
    return fail(CUDNN_STATUS_BAD_PARAM, "descriptor %d is finalized twice", own->kind);
  Status status = finalize(own);
  if (own->real) {
    const Status of_real = real::finalize(own->real);
    if (status != OK && of_real == OK)
      log("the real cuDNN took what the double did not: %s", last_error.c_str());
    status = of_real;
  }
  own->finalized = status == OK;
  return status;
}

API cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t most, int64_t *found, void *into) {
  Descriptor *own = alive(descriptor);
  if (own->real) {
    if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR || !into)
      return real::get(own->real, name, type, most, found, into);
    return real::get(own->real, name, type, most, found, real_ones((const void *const *)into, most).data());
  }
  if (!own->finalized)
    return fail(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "descriptor %d is read before it is finalized", own->kind);
  Status status;
  if (read_from_engines(own, name, type, most, found, into, status))
    return status;
  auto kept = own->attributes.find(name);
  if (kept == own->attributes.end())
    return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d of descriptor %d cannot be read", name, own->kind);
  const Attribute &attribute = kept->second;
  if (attribute.type != type)
    return fail(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d is of type %d", name, attribute.type);
  *found = attribute.count;
  if (most >= attribute.count)
    memcpy(into, attribute.bytes.data(), attribute.bytes.size());
  return OK;
}
