// libcuda.so.1: streams, events, captures and graphs. A stream is a queue that runs when somebody waits for it, so that
// what the program reads or frees too early shows; with DOUBLE_DEFER=0 it runs at once. A capture records the queue.
#include "driver.h"
#include <set>

namespace doubles {

struct Event {
  unsigned flags;
  bool recorded = false, done = false;
  double at = 0; // simulated nanoseconds
  Stream *stream = nullptr;
};

static auto &streams = *new std::set<Stream *>;
static auto &events = *new std::set<Event *>;
static auto &graphs = *new std::set<Graph *>;
static auto &executables = *new std::set<Graph *>;
static Stream legacy;
// Captures of this thread in a mode that forbids it to wait and to allocate.
static thread_local int captures;

Stream *stream_of(void *stream) {
  if (!stream)
    return &legacy;
  Lock lock(tables);
  if (!streams.count((Stream *)stream))
    die("stream %p is not alive", stream);
  return (Stream *)stream;
}

static Event *event_of(CUevent event) {
  Lock lock(tables);
  if (!events.count((Event *)event))
    die("event %p is not alive", (void *)event);
  return (Event *)event;
}

void drain(Stream *stream) {
  Lock lock(stream->running);
  while (!stream->queue.empty()) {
    const Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    work.run();
    stream->now += work.nanoseconds;
  }
}

static std::vector<Stream *> all_streams() {
  Lock lock(tables);
  return {streams.begin(), streams.end()};
}

void drain_all() {
  for (Stream *stream : all_streams()) {
    if (!stream->capturing)
      drain(stream);
  }
}

SHARED bool capturing(void *stream) {
  return stream_of(stream)->capturing;
}

SHARED void invalidate_captures() {
  for (Stream *stream : all_streams()) {
    if (stream->capturing && stream->by == std::this_thread::get_id())
      stream->invalid = true;
  }
}

SHARED int refuse_while_capturing(const char *what) {
  if (captures == 0)
    return 0;
  say("BUG %s while this thread captures a stream", what);
  invalidate_captures();
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static void check_context(const char *what, const Stream *stream) {
  if (stream != &legacy && stream->context != current)
    say("BUG %s on a stream of another context than the thread's", what);
}

SHARED void check_stream(const char *what, void *stream) {
  if (!stream)
    die("%s uses the legacy stream", what);
  check_context(what, stream_of(stream));
}

int push(Stream *stream, Work work) {
  if (stream->capturing) {
    if (stream->by != std::this_thread::get_id())
      die("%s from another thread on a stream that is captured", work.what);
    if (stream->invalid)
      return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream->graph->works.push_back(std::move(work));
    return 0;
  }
  {
    Lock lock(stream->running);
    stream->queue.push_back(std::move(work));
  }
  static const bool deferred = option("DOUBLE_DEFER", 1) != 0;
  if (!deferred)
    drain(stream);
  return 0;
}

SHARED int enqueue(void *stream, Work work) {
  Stream *own = stream_of(stream);
  check_context(work.what, own);
  return push(own, std::move(work));
}

static CUresult wait(Stream *stream, const char *what) {
  if (stream->capturing) {
    say("BUG %s on a stream that is captured", what);
    stream->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  drain(stream);
  look_at_red_zones(what);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

} // namespace doubles
using namespace doubles;

// ---- streams ----

API CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  RETURN_UNLESS_USABLE();
  if (flags != CU_STREAM_NON_BLOCKING)
    die("a stream that waits for the legacy stream");
  Lock lock(tables);
  auto *made = new Stream;
  made->context = current;
  streams.insert(made);
  live("streams", 1);
  *stream = CUstream(made);
  return CUDA_SUCCESS;
}

API CUresult cuStreamDestroy(CUstream stream) {
  Stream *own = stream_of(stream);
  if (!current)
    say("note: cuStreamDestroy on a thread with no current context");
  if (own->capturing)
    die("a stream is destroyed while it is captured");
  drain(own);
  {
    Lock lock(tables);
    streams.erase(own);
    tell_blocks_made_on(stream);
  }
  live("streams", -1);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuStreamSynchronize(CUstream stream) {
  RETURN_UNLESS_USABLE();
  return wait(stream_of(stream), "cuStreamSynchronize");
}

API CUresult cuStreamQuery(CUstream stream) {
  RETURN_UNLESS_USABLE();
  return wait(stream_of(stream), "cuStreamQuery");
}

API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  RETURN_UNLESS_USABLE();
  const Event *awaited = event_of(event);
  if (!awaited->recorded || awaited->done)
    return CUDA_SUCCESS;
  Stream *other = awaited->stream;
  return CUresult(enqueue(stream, {"cuStreamWaitEvent", "", 0, [=] { drain(other); }}));
}

// ---- captures and graphs ----

API CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
  RETURN_UNLESS_USABLE();
  const Stream *own = stream_of(stream);
  if (!own->capturing)
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
  else
    *status = own->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

API CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  RETURN_UNLESS_USABLE();
  Stream *own = stream_of(stream);
  if (own == &legacy)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (own->capturing)
    return CUDA_ERROR_ILLEGAL_STATE;
  own->invalid = false;
  own->by = std::this_thread::get_id();
  own->mode = mode;
  own->graph = new Graph;
  own->capturing = true;
  if (mode != CU_STREAM_CAPTURE_MODE_RELAXED)
    captures++;
  return CUDA_SUCCESS;
}

API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  Stream *own = stream_of(stream);
  if (!own->capturing)
    return CUDA_ERROR_ILLEGAL_STATE;
  if (own->by != std::this_thread::get_id())
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  own->capturing = false;
  if (own->mode != CU_STREAM_CAPTURE_MODE_RELAXED)
    captures--;
  Graph *captured = own->graph;
  own->graph = nullptr;
  *graph = nullptr;
  if (own->invalid || lost()) {
    delete captured;
    RETURN_IF_LOST();
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  Lock lock(tables);
  graphs.insert(captured);
  live("graphs", 1);
  *graph = CUgraph(captured);
  return CUDA_SUCCESS;
}

API CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long) {
  RETURN_UNLESS_USABLE();
  Lock lock(tables);
  if (!graphs.count((Graph *)graph))
    die("a dead graph is instantiated");
  auto *made = new Graph;
  for (const Work &work : ((Graph *)graph)->works) {
    if (!made->works.empty() && !work.key.empty() && made->works.back().key == work.key)
      made->works.back().nanoseconds += work.nanoseconds;
    else
      made->works.push_back(work);
  }
  executables.insert(made);
  live("executable graphs", 1);
  *executable = CUgraphExec(made);
  return CUDA_SUCCESS;
}

API CUresult cuGraphDestroy(CUgraph graph) {
  Lock lock(tables);
  if (!graphs.erase((Graph *)graph))
    die("a dead graph is destroyed");
  delete (Graph *)graph;
  live("graphs", -1);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuGraphExecDestroy(CUgraphExec executable) {
  {
    Lock lock(tables);
    if (!executables.erase((Graph *)executable))
      die("a dead executable graph is destroyed");
  }
  // the driver keeps one that still runs until it is done
  drain_all();
  delete (Graph *)executable;
  live("executable graphs", -1);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  RETURN_UNLESS_USABLE();
  const auto *graph = (const Graph *)executable;
  double nanoseconds = 5000;
  {
    Lock lock(tables);
    if (!executables.count((Graph *)executable))
      die("a dead graph is launched");
    for (const Work &work : graph->works)
      nanoseconds += work.nanoseconds;
  }
  if (capturing(stream))
    die("a graph is launched on a stream that is captured");
  auto run = [=] {
    for (const Work &work : graph->works)
      work.run();
  };
  return CUresult(enqueue(stream, {"cuGraphLaunch", "", nanoseconds, run}));
}

// ---- events ----

API CUresult cuEventCreate(CUevent *event, unsigned flags) {
  RETURN_UNLESS_USABLE();
  Lock lock(tables);
  auto *made = new Event{flags};
  events.insert(made);
  live("events", 1);
  *event = CUevent(made);
  return CUDA_SUCCESS;
}

API CUresult cuEventDestroy(CUevent event) {
  Event *own = event_of(event);
  if (own->recorded && !own->done)
    drain(own->stream);
  Lock lock(tables);
  events.erase(own);
  delete own;
  live("events", -1);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuEventRecord(CUevent event, CUstream stream) {
  RETURN_UNLESS_USABLE();
  Event *own = event_of(event);
  Stream *on = stream_of(stream);
  own->recorded = true;
  own->done = false;
  own->stream = on;
  auto run = [=] {
    own->at = on->now;
    own->done = true;
  };
  return CUresult(enqueue(stream, {"cuEventRecord", "", 0, run}));
}

API CUresult cuEventSynchronize(CUevent event) {
  RETURN_UNLESS_USABLE();
  RETURN_IF_CAPTURING();
  const Event *own = event_of(event);
  if (own->recorded && !own->done)
    drain(own->stream);
  RETURN_IF_LOST();
  return CUDA_SUCCESS;
}

API CUresult cuEventQuery(CUevent event) {
  RETURN_UNLESS_USABLE();
  const Event *own = event_of(event);
  return !own->recorded || own->done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

API CUresult cuEventElapsedTime(float *milliseconds, CUevent begin, CUevent end) {
  RETURN_UNLESS_USABLE();
  const Event *from = event_of(begin), *to = event_of(end);
  const bool untimed = (from->flags | to->flags) & CU_EVENT_DISABLE_TIMING;
  if (untimed || !from->recorded || !to->recorded)
    return CUDA_ERROR_INVALID_HANDLE;
  if (!from->done || !to->done)
    return CUDA_ERROR_NOT_READY;
  *milliseconds = float((to->at - from->at) / 1e6);
  return CUDA_SUCCESS;
}
