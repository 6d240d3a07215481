// libcuda.so.1: modules and launches. Whatever module is loaded, its kernels are those of libkernels.so beside this
// library: kernels.cu compiled for the host.
#include "driver.h"
#include <dlfcn.h>
#include <map>
#include <string.h>

namespace doubles {

typedef void (*Kernel)(const void *arguments);
// As shim.h's shim_launch: null, or what the threads did wrong.
typedef const char *(*Launcher)(Kernel, const void *arguments, unsigned blocks, unsigned threads, bool descending);

struct Module {};

struct Function {
  std::string name;
  Kernel kernel;
  size_t argument_bytes;
  Launcher launch;
};

static void *symbol(const std::string &name) {
  static void *const library = [] {
    Dl_info info;
    dladdr((void *)&cuInit, &info);
    std::string path = info.dli_fname;
    path = path.substr(0, path.rfind('/')) + "/libkernels.so";
    void *opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!opened)
      die("%s", dlerror());
    return opened;
  }();
  return dlsym(library, name.c_str());
}

// Kernels whose threads never meet run as loops, which is many times faster than the shim's coroutines.
static bool threads_meet(const std::string &name) {
  for (const char *alone : {"planes", "map", "widen"}) {
    if (name.rfind(alone, 0) == 0)
      return false;
  }
  return name.rfind("pool", 0) != 0 || name.rfind("pool_block", 0) == 0;
}

static Function *load(const std::string &name) {
  const auto kernel = Kernel(symbol(name));
  if (!kernel)
    return nullptr;
  const size_t bytes = *(const size_t *)symbol(name + "_size");
  const char *launcher = threads_meet(name) ? "shim_launch" : "loop_launch";
  return new Function{name, kernel, bytes, Launcher(symbol(launcher))};
}

} // namespace doubles
using namespace doubles;

API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  constexpr uint32_t FAT_BINARY = 0xba55ed50;
  if (uint64_t(image) % 8 != 0)
    say("BUG the image of a module at %p is not aligned", image);
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic != FAT_BINARY)
    return CUDA_ERROR_INVALID_IMAGE;
  *module = CUmodule(new Module);
  live("modules", 1);
  return CUDA_SUCCESS;
}

API CUresult cuModuleUnload(CUmodule module) {
  delete (Module *)module;
  live("modules", -1);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
  RETURN_UNLESS_USABLE();
  static auto &functions = *new std::map<std::string, Function *>;
  Lock lock(tables);
  Function *&found = functions[name];
  if (!found)
    found = load(name);
  if (!found)
    return CUDA_ERROR_NOT_FOUND;
  *function = CUfunction(found);
  return CUDA_SUCCESS;
}

// Takes launches as the engine makes them: 256 threads, one dimension, one argument, no dynamic shared memory.
API CUresult cuLaunchKernel(CUfunction function, unsigned blocks, unsigned blocks_y, unsigned blocks_z,
                            unsigned threads, unsigned threads_y, unsigned threads_z, unsigned shared, CUstream stream,
                            void **arguments, void **extra) {
  RETURN_UNLESS_USABLE();
  const bool flat = blocks_y == 1 && blocks_z == 1 && threads_y == 1 && threads_z == 1;
  if (!flat || blocks == 0 || threads != 256 || shared != 0 || extra)
    return CUDA_ERROR_INVALID_VALUE;
  const auto *own = (const Function *)function;
  const std::string bytes((const char *)arguments[0], own->argument_bytes);
  auto run = [=] {
    static const bool computes = option("DOUBLE_COMPUTE", 1) != 0;
    static const bool looks = option("DOUBLE_LOOK", 0) != 0;
    if (!computes)
      return;
    std::vector<uint64_t> aligned((bytes.size() + 7) / 8);
    memcpy(aligned.data(), bytes.data(), bytes.size());
    // no result may hang on the order of blocks and threads
    const bool descending = blocks % 2 != 0;
    if (const char *wrong = own->launch(own->kernel, aligned.data(), blocks, threads, descending))
      die("%s: %s", own->name.c_str(), wrong);
    if (looks)
      look_at_red_zones(own->name.c_str());
  };
  return CUresult(enqueue(stream, {own->name.c_str(), own->name + bytes, 1500 + blocks * 40.0, run}));
}
