// What the doubles share. libcuda.so.1 holds the state; the doubles of cuDNN and cuBLASLt are linked to it and go by
// this header alone: they put work on streams, ask whether a call is allowed now, and check the addresses they are
// given.
#pragma once
#include <functional>
#include <stddef.h>
#include <stdint.h>
#include <string>

#define API extern "C" __attribute__((visibility("default")))
#define SHARED __attribute__((visibility("default")))

namespace doubles {

// A piece of work on a stream.
struct Work {
  const char *what;
  // Equal work has equal keys. Tuning captures one layer several times over: a graph runs such a row once, and counts
  // its time for each. Work without a key is never left out.
  std::string key;
  double nanoseconds = 0; // simulated
  std::function<void()> run;
};

// Queues work on a stream, or records it while the stream is captured. 0 or a CUresult.
SHARED int enqueue(void *stream, Work work);

// 0, or the CUresult that any call would give now: the device is lost, or the thread has no living context.
SHARED int state(const char *what);

// Calls that wait or allocate are forbidden to a thread while it captures: 0, or the CUresult; the captures are then
// invalid, as they are with the real driver.
SHARED int refuse_while_capturing(const char *what);
SHARED void invalidate_captures();
SHARED bool capturing(void *stream);

// Ends the process unless [at, at + bytes) lies within one living allocation of a device.
SHARED void check_range(const char *what, uint64_t at, size_t bytes);
// Ends the process at the legacy stream or a dead one; tells where the thread's context is not the stream's.
SHARED void check_stream(const char *what, void *stream);

// Ends the process with a message and a backtrace.
[[noreturn]] SHARED void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Tells something on standard error.
SHARED void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
// As `say`, if DOUBLE_LOG is set.
SHARED void log(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The number in an environment variable, read each time: keep it in a static.
SHARED long option(const char *name, long otherwise);
// Whether DOUBLE_FORBID names this kind of algorithm: fused, bare or product.
SHARED bool forbidden(const char *kind);
// Simulated time of `multiplications` by an algorithm that `key` names: another one for each key and DOUBLE_SEED, so
// that tuning chooses among the algorithms as it would on a card.
SHARED double simulated_nanoseconds(double multiplications, const std::string &key);
SHARED uint64_t hash(const std::string &text);

// Counts objects by kind; what is not zero when the last context ends is a leak.
SHARED void live(const char *kind, int change);

} // namespace doubles
