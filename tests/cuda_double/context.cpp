// libcuda.so.1: the start, devices, contexts, and the loss of a device.
#include "driver.h"
#include <array>
#include <atomic>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

namespace doubles {

Mutex tables;
thread_local CUcontext current;
static std::atomic<bool> initialised;
static std::array<Context, 8> primary;

static int devices() {
  static const long count = option("DOUBLE_DEVICES", 1);
  if (count < 0 || count > long(primary.size()))
    die("DOUBLE_DEVICES is %ld: at most %zu", count, primary.size());
  return int(count);
}

bool lost() {
  static const char *const file = getenv("DOUBLE_STICKY");
  static const long only = option("DOUBLE_STICKY_DEVICE", -1);
  static std::atomic<bool> hit;
  if (!file)
    return false;
  if (only >= 0 && current != CUcontext(&primary.at(size_t(only))))
    return false;
  struct stat status;
  if (!hit && stat(file, &status) == 0) {
    hit = true;
    say("the device is lost from now on");
  }
  return hit;
}

SHARED int state(const char *what) {
  if (lost())
    return CUDA_ERROR_ILLEGAL_ADDRESS;
  if (!initialised) {
    say("BUG %s before cuInit", what);
    return CUDA_ERROR_NOT_INITIALIZED;
  }
  if (!current) {
    say("BUG %s on a thread with no current context", what);
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  Lock lock(tables);
  if (!((Context *)current)->retained) {
    say("BUG %s in a context that has been released", what);
    return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  }
  return 0;
}

} // namespace doubles
using namespace doubles;

API CUresult cuInit(unsigned) {
  RETURN_IF_LOST();
  if (!initialised.exchange(true))
    atexit([] { tell_what_lives("at the end"); });
  return CUDA_SUCCESS;
}

API CUresult cuDriverGetVersion(int *version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

API CUresult cuGetErrorName(CUresult error, const char **name) {
  static thread_local char text[40];
  snprintf(text, sizeof text, "CUDA_ERROR_%d", error);
  *name = text;
  return CUDA_SUCCESS;
}

API CUresult cuGetErrorString(CUresult error, const char **description) {
  static thread_local char text[40];
  snprintf(text, sizeof text, "driver error %d of the double", error);
  *description = text;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int *count) {
  RETURN_IF_LOST();
  *count = devices();
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(CUdevice *device, int index) {
  RETURN_IF_LOST();
  if (index < 0 || index >= devices())
    return CUDA_ERROR_INVALID_DEVICE;
  *device = index;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
  RETURN_IF_LOST();
  snprintf(name, size_t(bytes), "Double of an H100");
  return CUDA_SUCCESS;
}

API CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) {
  *bytes = capacity();
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice) {
  memset(uuid, 7, sizeof *uuid);
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
  RETURN_IF_LOST();
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    *value = int(option("DOUBLE_POOLS", 1));
    break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
    *value = 9;
    break;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    *value = 0;
    break;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
    *value = 132;
    break;
  default:
    die("cuDeviceGetAttribute %d is not doubled", attribute);
  }
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  RETURN_IF_LOST();
  Lock lock(tables);
  Context &own = primary.at(size_t(device));
  own.retained++;
  *context = CUcontext(&own);
  live("contexts retained", 1);
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  {
    Lock lock(tables);
    Context &own = primary.at(size_t(device));
    if (--own.retained < 0)
      die("a context is released too often");
    live("contexts retained", -1);
    if (own.retained == 0)
      tell_what_lives(anything_lives() ? "LEAK at a context's end" : "a context ends with nothing left");
  }
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuCtxGetCurrent(CUcontext *context) {
  RETURN_IF_LOST();
  *context = current;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSetCurrent(CUcontext context) {
  RETURN_IF_LOST();
  current = context;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSynchronize(void) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  drain_all();
  look_at_red_zones("cuCtxSynchronize");
  return CUDA_SUCCESS;
}

// The runtime within the real cuDNN asks for the driver's functions: it gets none, and goes by the device it is told
// of.
#undef cuGetProcAddress
API CUresult cuGetProcAddress_v2(const char *, void **function, int, cuuint64_t,
                                 CUdriverProcAddressQueryResult *result) {
  *function = nullptr;
  if (result)
    *result = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return CUDA_ERROR_NOT_FOUND;
}

API CUresult cuGetProcAddress(const char *, void **function, int, cuuint64_t) {
  *function = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}
