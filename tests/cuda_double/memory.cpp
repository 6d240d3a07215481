// libcuda.so.1: device and pinned memory, and copies. An allocation is mapped host memory between two guard pages,
// filled with 0xff (NaN in every type); what lies between the pages and the block is its red zone, which must stay
// 0xff.
#include "driver.h"
#include <map>
#include <string.h>
#include <string>
#include <sys/mman.h>

namespace doubles {

constexpr size_t PAGE = 4096;
constexpr unsigned char UNTOUCHED = 0xff;

struct Block {
  uint64_t at;
  size_t bytes;
  unsigned char *map;
  size_t mapped;
  CUstream stream;
};
typedef std::map<uint64_t, Block> Blocks;
static Blocks &device = *new Blocks, &pinned = *new Blocks;
static size_t used;

size_t capacity() {
  static const size_t bytes = size_t(option("DOUBLE_MEM_MB", 81920)) << 20;
  return bytes;
}

// The block ends as near to the guard page behind it as its alignment lets it.
static Block place(size_t bytes, size_t alignment, CUstream stream) {
  const size_t room = (bytes + alignment - 1) / alignment * alignment;
  const size_t pages = (room + PAGE - 1) / PAGE * PAGE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *map = mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (map == MAP_FAILED)
    die("the host has no memory for %zu bytes", bytes);
  auto *first = (unsigned char *)map;
  mprotect(first, PAGE, PROT_NONE);
  mprotect(first + PAGE + pages, PAGE, PROT_NONE);
  memset(first + PAGE, UNTOUCHED, pages);
  return Block{uint64_t(first + PAGE + pages - room), bytes, first, pages + 2 * PAGE, stream};
}

static void look(const Block &block, const char *when) {
  const auto *begin = (const unsigned char *)block.at;
  const unsigned char *end = begin + block.bytes;
  for (const unsigned char *at = block.map + PAGE; at < begin; at++) {
    if (*at != UNTOUCHED)
      die("%s: written %ld bytes before a block of %zu at %#lx", when, long(begin - at), block.bytes, block.at);
  }
  for (const unsigned char *at = end; at < block.map + block.mapped - PAGE; at++) {
    if (*at != UNTOUCHED)
      die("%s: written %ld bytes behind a block of %zu at %#lx", when, long(at - end), block.bytes, block.at);
  }
}

void look_at_red_zones(const char *when) {
  Lock lock(tables);
  for (auto &[at, block] : device)
    look(block, when);
  for (auto &[at, block] : pinned)
    look(block, when);
}

static bool within(const Blocks &blocks, uint64_t at, size_t bytes) {
  Lock lock(tables);
  auto next = blocks.upper_bound(at);
  if (next == blocks.begin())
    return false;
  const Block &block = std::prev(next)->second;
  return at + bytes <= block.at + block.bytes;
}

SHARED void check_range(const char *what, uint64_t at, size_t bytes) {
  if (!within(device, at, bytes))
    die("%s: [%#lx, %zu bytes) is in no allocation of the device", what, at, bytes);
}

void tell_blocks_made_on(CUstream stream) {
  Lock lock(tables);
  for (auto &[at, block] : device) {
    if (block.stream == stream)
      say("note: stream destroyed before a block of %zu bytes that was made on it", block.bytes);
  }
}

static CUresult allocate(CUdeviceptr *address, size_t bytes, CUstream stream) {
  Lock lock(tables);
  if (bytes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (used + bytes > capacity())
    return CUDA_ERROR_OUT_OF_MEMORY;
  const Block block = place(bytes, 256, stream);
  device[block.at] = block;
  used += bytes;
  live("device blocks", 1);
  set_gauge("device MiB", long(used >> 20));
  log("%zu bytes at %#lx", bytes, block.at);
  *address = block.at;
  return CUDA_SUCCESS;
}

static Block &device_block(CUdeviceptr address) {
  auto found = device.find(address);
  if (found == device.end())
    die("free of %#llx, which is not allocated", address);
  return found->second;
}

static void release(CUdeviceptr address) {
  Lock lock(tables);
  const Block block = device_block(address);
  look(block, "free");
  munmap(block.map, block.mapped);
  used -= block.bytes;
  device.erase(address);
  live("device blocks", -1);
  set_gauge("device MiB", long(used >> 20));
  log("free of %#llx", address);
}

static double copy_nanoseconds(size_t bytes) {
  return 2000 + double(bytes) / 50;
}

static std::string key_of(const char *what, uint64_t to, uint64_t from, size_t bytes) {
  return std::string(what) + " " + std::to_string(to) + " " + std::to_string(from) + " " + std::to_string(bytes);
}

} // namespace doubles
using namespace doubles;

API CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  return allocate(address, bytes, nullptr);
}

API CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream) {
  RETURN_UNLESS_USABLE();
  if (capturing(stream)) {
    say("BUG allocation on a stream that is captured");
    stream_of(stream)->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return allocate(address, bytes, stream);
}

API CUresult cuMemFree(CUdeviceptr address) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  cuCtxSynchronize();
  release(address);
  return CUDA_SUCCESS;
}

API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  RETURN_IF_LOST();
  if (!current)
    say("note: cuMemFreeAsync on a thread with no current context");
  if (capturing(stream))
    die("free on a stream that is captured");
  {
    Lock lock(tables);
    if (device_block(address).stream != stream)
      say("note: block freed on another stream than it was made on");
  }
  push(stream_of(stream), {"free", "", 0, [=] { release(address); }});
  return CUDA_SUCCESS;
}

API CUresult cuMemGetInfo(size_t *free, size_t *total) {
  RETURN_UNLESS_USABLE();
  Lock lock(tables);
  *free = capacity() - used;
  *total = capacity();
  return CUDA_SUCCESS;
}

API CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  Lock lock(tables);
  const Block block = place(bytes, 64, nullptr);
  pinned[block.at] = block;
  live("pinned blocks", 1);
  *address = (void *)block.at;
  return CUDA_SUCCESS;
}

API CUresult cuMemFreeHost(void *address) {
  RETURN_IF_LOST();
  if (!current)
    say("note: cuMemFreeHost on a thread with no current context");
  RETURN_IF_CAPTURING();
  drain_all();
  Lock lock(tables);
  auto found = pinned.find(uint64_t(address));
  if (found == pinned.end())
    die("cuMemFreeHost of %p, which is not allocated", address);
  const Block block = found->second;
  look(block, "cuMemFreeHost");
  munmap(block.map, block.mapped);
  pinned.erase(found);
  live("pinned blocks", -1);
  return CUDA_SUCCESS;
}

// From pinned memory the copy reads when it runs; from other memory the driver takes the bytes at once.
API CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  RETURN_UNLESS_USABLE();
  check_range("cuMemcpyHtoDAsync", to, bytes);
  const std::string key = key_of("copy to the device", to, uint64_t(from), bytes);
  if (within(pinned, uint64_t(from), bytes)) {
    auto run = [=] {
      if (!within(pinned, uint64_t(from), bytes))
        die("the pinned memory of a copy is gone");
      check_range("copy to the device", to, bytes);
      memcpy((void *)to, from, bytes);
    };
    return CUresult(enqueue(stream, {"copy to the device", key, copy_nanoseconds(bytes), run}));
  }
  if (capturing(stream))
    die("a copy from pageable memory is captured");
  const std::string taken((const char *)from, bytes);
  auto run = [=] {
    check_range("copy to the device", to, bytes);
    memcpy((void *)to, taken.data(), bytes);
  };
  return CUresult(enqueue(stream, {"copy to the device", key, copy_nanoseconds(bytes), run}));
}

// To memory that is not pinned the driver copies before it returns.
API CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  RETURN_UNLESS_USABLE();
  check_range("cuMemcpyDtoHAsync", from, bytes);
  const bool to_pinned = within(pinned, uint64_t(to), bytes);
  if (!to_pinned && capturing(stream))
    die("a copy to pageable memory is captured");
  auto run = [=] {
    if (to_pinned && !within(pinned, uint64_t(to), bytes))
      die("the pinned memory of a copy is gone");
    check_range("copy from the device", from, bytes);
    memcpy(to, (const void *)from, bytes);
  };
  const std::string key = key_of("copy from the device", uint64_t(to), from, bytes);
  const int status = enqueue(stream, {"copy from the device", key, copy_nanoseconds(bytes), run});
  if (!to_pinned)
    drain(stream_of(stream));
  return CUresult(status);
}

API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  RETURN_UNLESS_USABLE();
  check_range("cuMemsetD8Async", to, bytes);
  static const bool poison = option("DOUBLE_POISON_MEMSET", 0) != 0;
  const unsigned char written = poison ? UNTOUCHED : value;
  auto run = [=] {
    check_range("memset", to, bytes);
    memset((void *)to, written, bytes);
  };
  return CUresult(enqueue(stream, {"memset", key_of("memset", to, written, bytes), 2000, run}));
}
