// Loaded ahead of the C library, it counts what is allocated between start() and stop().
#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
void __libc_free(void* block);
}

namespace {

std::atomic<bool> counting;
std::atomic<std::int64_t> live, most_live, largest, calls;

void raise_to(std::atomic<std::int64_t>& most, std::int64_t value) {
  std::int64_t known = most;
  while (value > known && !most.compare_exchange_weak(known, value)) {
  }
}

void* taken(void* block) {
  if (counting && block != nullptr) {
    const auto bytes = static_cast<std::int64_t>(malloc_usable_size(block));
    ++calls;
    raise_to(largest, bytes);
    raise_to(most_live, live += bytes);
  }
  return block;
}

void given(void* block) {
  if (counting && block != nullptr) live -= static_cast<std::int64_t>(malloc_usable_size(block));
}

}  // namespace

extern "C" {

void* malloc(std::size_t bytes) { return taken(__libc_malloc(bytes)); }
void* calloc(std::size_t count, std::size_t bytes) { return taken(__libc_calloc(count, bytes)); }
void* memalign(std::size_t alignment, std::size_t bytes) { return taken(__libc_memalign(alignment, bytes)); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void** block, std::size_t alignment, std::size_t bytes) {
  *block = memalign(alignment, bytes);
  return *block == nullptr ? ENOMEM : 0;
}

void* realloc(void* old, std::size_t bytes) {
  given(old);
  return taken(__libc_realloc(old, bytes));
}

void free(void* block) {
  given(block);
  __libc_free(block);
}

void start_counting() {
  live = most_live = largest = calls = 0;
  counting = true;
}

// calls, largest block, the most that was live at once beyond what stayed, and what stayed
void stop_counting(std::int64_t* result) {
  counting = false;
  const std::int64_t stayed = live;
  result[0] = calls;
  result[1] = largest;
  result[2] = most_live - (stayed > 0 ? stayed : 0);
  result[3] = stayed;
}
}
