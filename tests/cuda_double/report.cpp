// Messages, counts of what lives, options, and simulated times.
#include "driver.h"
#include <execinfo.h>
#include <map>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace doubles {

// The tables outlive the process' static destructors: the program may free its last objects in them.
static auto &counts = *new std::map<std::string, long>;
static auto &peaks = *new std::map<std::string, long>;

static std::string formatted(const char *format, va_list arguments) {
  char text[4096];
  vsnprintf(text, sizeof text, format, arguments);
  return text;
}

SHARED void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "double: %s\n", formatted(format, arguments).c_str());
  va_end(arguments);
}

SHARED void log(const char *format, ...) {
  static const bool verbose = getenv("DOUBLE_LOG") != nullptr;
  if (!verbose)
    return;
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "double: log: %s\n", formatted(format, arguments).c_str());
  va_end(arguments);
}

SHARED void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  say("FATAL %s", formatted(format, arguments).c_str());
  va_end(arguments);
  void *frames[40];
  backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
  abort();
}

SHARED long option(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value ? strtol(value, nullptr, 0) : otherwise;
}

SHARED bool forbidden(const char *kind) {
  static const char *const which = getenv("DOUBLE_FORBID");
  return which && strcmp(which, kind) == 0;
}

// FNV-1a, and a mix of its upper bits.
SHARED uint64_t hash(const std::string &text) {
  static const uint64_t seed = uint64_t(option("DOUBLE_SEED", 1));
  uint64_t hash = 1469598103934665603ull ^ seed * 0x9e3779b97f4a7c15ull;
  for (unsigned char character : text) {
    hash ^= character;
    hash *= 1099511628211ull;
  }
  hash ^= hash >> 29;
  hash *= 0xbf58476d1ce4e5b9ull;
  return hash ^ hash >> 32;
}

SHARED double simulated_nanoseconds(double multiplications, const std::string &key) {
  return 2500 + multiplications / 5e3 * (0.5 + double(hash(key) % 1000) / 700);
}

SHARED void live(const char *kind, int change) {
  Lock lock(tables);
  set_gauge(kind, counts[kind] + change);
  if (counts[kind] < 0)
    die("more %s freed than made", kind);
}

void set_gauge(const char *kind, long value) {
  Lock lock(tables);
  counts[kind] = value;
  if (value > peaks[kind])
    peaks[kind] = value;
}

bool anything_lives() {
  Lock lock(tables);
  for (auto &[kind, count] : counts) {
    if (count != 0)
      return true;
  }
  return false;
}

void tell_what_lives(const char *when) {
  Lock lock(tables);
  std::string text;
  for (auto &[kind, count] : counts)
    text += " " + kind + " " + std::to_string(count) + " (peak " + std::to_string(peaks[kind]) + ")";
  say("%s:%s", when, text.c_str());
}

} // namespace doubles
