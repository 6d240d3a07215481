// What the files of libcuda.so.1 share: contexts, streams and what they queue, and the doors between memory, streams
// and reports.
#pragma once
#include "double.h"
#include <cuda.h>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace doubles {

typedef std::recursive_mutex Mutex;
typedef std::lock_guard<Mutex> Lock;
// Guards every table of the driver. A stream's own mutex is taken first where both are held.
extern Mutex tables;

// ---- report.cpp ----

void set_gauge(const char *kind, long value);
bool anything_lives();
void tell_what_lives(const char *when);

// ---- context.cpp ----

struct Context {
  int retained = 0;
};
extern thread_local CUcontext current;
// Whether the device is lost (DOUBLE_STICKY), as after an illegal address: every call fails from then on.
bool lost();

#define RETURN_IF_LOST()                                                                                               \
  do {                                                                                                                 \
    if (lost())                                                                                                        \
      return CUDA_ERROR_ILLEGAL_ADDRESS;                                                                               \
  } while (0)
#define RETURN_UNLESS_USABLE()                                                                                         \
  do {                                                                                                                 \
    if (int status = state(__func__))                                                                                  \
      return CUresult(status);                                                                                         \
  } while (0)
#define RETURN_IF_CAPTURING()                                                                                          \
  do {                                                                                                                 \
    if (int status = refuse_while_capturing(__func__))                                                                 \
      return CUresult(status);                                                                                         \
  } while (0)

// ---- memory.cpp ----

// Looks at the red zones of everything that is allocated.
void look_at_red_zones(const char *when);
void tell_blocks_made_on(CUstream stream);
size_t capacity();

// ---- streams.cpp ----

struct Graph {
  std::vector<Work> works;
};

struct Stream {
  CUcontext context = nullptr;
  Mutex running;
  std::deque<Work> queue;
  double now = 0; // simulated nanoseconds
  // of a capture
  bool capturing = false, invalid = false;
  std::thread::id by;
  CUstreamCaptureMode mode;
  Graph *graph = nullptr;
};

// The living stream of a handle.
Stream *stream_of(void *stream);
// Queues work past the check of the thread's context.
int push(Stream *stream, Work work);
// Runs what is queued.
void drain(Stream *stream);
void drain_all();

} // namespace doubles
