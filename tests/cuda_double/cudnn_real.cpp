// libcudnn.so.9 in real mode: descriptors are made by the real library as well (libcudnn_graph.so.9, which needs no
// card) for a card that a JSON file describes, so that its checks, heuristics and plans count. The double still
// computes.
#include "cudnn.h"
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <stdlib.h>

namespace doubles::real {

static void *library() {
  static void *const opened = [] {
    const char *path = getenv("DOUBLE_CUDNN_REAL");
    if (!path)
      return (void *)nullptr;
    // deep binding: it has functions of the same names as this library
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library)
      die("%s", dlerror());
    return library;
  }();
  return opened;
}

static void *symbol(const char *name) {
  void *found = dlsym(library(), name);
  if (!found)
    die("the real cuDNN has no %s", name);
  return found;
}

template <class F> static F function(const char *name, F) {
  return F(symbol(name));
}
#define REAL(name)                                                                                                     \
  ([]() -> auto & {                                                                                                    \
    static const auto own = function(#name, &name);                                                                    \
    return *own;                                                                                                       \
  }())

static Status told(Status status) {
  if (status == OK)
    return OK;
  char message[2048] = "";
  REAL(cudnnGetLastErrorString)(message, sizeof message);
  return fail(status, "the real cuDNN: %s", message);
}

// The card that DOUBLE_DEVICE describes.
static void *device() {
  static void *const made = [] {
    const char *path = getenv("DOUBLE_DEVICE");
    std::ifstream file(path ? path : "");
    std::string json(std::istreambuf_iterator<char>(file), {});
    if (json.empty())
      die("DOUBLE_DEVICE names no description of a card");
    json.resize(json.find_last_of('}') + 1);
    void *device;
    const auto count = int64_t(json.size());
    if (told(REAL(cudnnBackendCreateDescriptor)(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &device)) ||
        set(device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, count, json.c_str()) ||
        finalize(device))
      die("the real cuDNN does not take the card that DOUBLE_DEVICE describes");
    return device;
  }();
  return made;
}

bool used() {
  return library() != nullptr;
}

Status create(int kind, void **descriptor) {
  if (Status status = told(REAL(cudnnBackendCreateDescriptor)(cudnnBackendDescriptorType_t(kind), descriptor)))
    return status;
  static const std::map<int, int> for_device = {
      {CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_ATTR_ENGINE_DEVICEPROP},
      {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP},
      {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP},
  };
  auto attribute = for_device.find(kind);
  if (attribute == for_device.end())
    return OK;
  void *card = device();
  return set(*descriptor, attribute->second, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &card);
}

Status destroy(void *descriptor) {
  return told(REAL(cudnnBackendDestroyDescriptor)(descriptor));
}

Status set(void *descriptor, int name, int type, int64_t count, const void *from) {
  return told(REAL(cudnnBackendSetAttribute)(descriptor, cudnnBackendAttributeName_t(name),
                                             cudnnBackendAttributeType_t(type), count, from));
}

Status finalize(void *descriptor) {
  return told(REAL(cudnnBackendFinalize)(descriptor));
}

Status get(void *descriptor, int name, int type, int64_t most, int64_t *found, void *into) {
  return told(REAL(cudnnBackendGetAttribute)(descriptor, cudnnBackendAttributeName_t(name),
                                             cudnnBackendAttributeType_t(type), most, found, into));
}

} // namespace doubles::real
