// What the files of libcudnn.so.9 share: descriptors as bags of attributes, the chain of operations that a graph of
// them describes, and the doors to the engines and to the real library.
#pragma once
#include "arithmetic.h"
#include "double.h"
#include <cudnn_graph.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace doubles {

typedef cudnnStatus_t Status;
constexpr Status OK = CUDNN_STATUS_SUCCESS;

// Keeps the message for cudnnGetLastErrorString, and gives the status back.
Status fail(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// ---- cudnn_descriptors.cpp ----

struct Handle {
  void *stream = nullptr;
};

struct Attribute {
  int type;
  int64_t count;
  std::vector<char> bytes;
};

struct Descriptor {
  int kind;
  bool finalized = false;
  std::map<int, Attribute> attributes;
  void *real = nullptr;
  // What work on a stream looks at to know whether its plan still lives.
  std::shared_ptr<bool> lives = std::make_shared<bool>(true);
  // Of an engine configuration that the heuristics gave: its engine and knob choices.
  std::vector<std::unique_ptr<Descriptor>> children;
};

// The living descriptor or handle at an address.
Descriptor *alive(const void *descriptor);
Handle *alive_handle(const void *handle);
// What an attribute links to.
Descriptor *linked(const Descriptor *from, int name);

template <class T> std::vector<T> list(const Descriptor *descriptor, int name) {
  auto found = descriptor->attributes.find(name);
  if (found == descriptor->attributes.end())
    return {};
  std::vector<T> values(size_t(found->second.count));
  memcpy(values.data(), found->second.bytes.data(), values.size() * sizeof(T));
  return values;
}

template <class T> T one(const Descriptor *descriptor, int name, T otherwise = {}) {
  const std::vector<T> values = list<T>(descriptor, name);
  return values.empty() ? otherwise : values[0];
}

template <class T> void give(Descriptor *descriptor, int name, int type, T value) {
  const char *bytes = (const char *)&value;
  descriptor->attributes[name] = Attribute{type, 1, {bytes, bytes + sizeof value}};
}

// ---- cudnn_graph.cpp ----

struct Tensor {
  int64_t id;
  Type type;
  int64_t alignment;
  int64_t extents[4], strides[4]; // n, c, h, w
  bool is_virtual;
};

// The convolution that a chain begins with (second: its weights), or a sum or a ReLU of the step before.
struct Step {
  enum Kind { CONVOLUTION, SUM, RELU } kind;
  Tensor input, second, output;
  Convolution convolution;
};

struct Chain {
  std::vector<Step> steps;
  double multiplications = 0;
  std::string shape; // equal for equal layers
};

Status read_tensor(const Descriptor *descriptor, Tensor &tensor);
Status read_chain(const Descriptor *graph, Chain &chain);
// Runs a chain on the tensors at these addresses, by identifier.
void execute(const Chain &chain, const std::map<int64_t, uint64_t> &at, uint64_t workspace, int64_t workspace_bytes);

// ---- cudnn_engines.cpp ----

Status finalize_engine(const Descriptor *engine);
Status finalize_heuristics(const Descriptor *heuristics);
Status finalize_plan(Descriptor *plan);
// Whether an attribute is one that engines answer; if so, `status` is their answer.
bool read_from_engines(Descriptor *descriptor, int name, int type, int64_t most, int64_t *found, void *into,
                       Status &status);

// ---- cudnn_real.cpp: the real library, if DOUBLE_CUDNN_REAL names it ----

namespace real {
bool used();
Status create(int kind, void **descriptor);
Status destroy(void *descriptor);
Status set(void *descriptor, int name, int type, int64_t count, const void *from);
Status finalize(void *descriptor);
Status get(void *descriptor, int name, int type, int64_t most, int64_t *found, void *into);
} // namespace real

} // namespace doubles
