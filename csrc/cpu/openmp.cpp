// The functions of libgomp that loops compiled by GCC call, found at run time instead of linked. The module
// imports where none is installed, on one thread; beside torch it uses the one that torch brings, so that
// there is a single runtime, which torch.set_num_threads governs.
#include <dlfcn.h>

#include <atomic>

namespace {

struct Runtime {
  void (*parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);
  int (*thread)(), (*threads)(), (*most_threads)();
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// Null as long as the process has none.
const Runtime* runtime() {
  static std::atomic<const Runtime*> known{nullptr};
  if (const Runtime* const found = known.load(std::memory_order_acquire)) return found;
  static std::atomic<bool> searched{false};
  // One that is loaded, by its name in whatever folder it lies; the first time, one that is installed.
  void* library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr && !searched.exchange(true)) library = dlopen("libgomp.so.1", RTLD_NOW);
  if (library == nullptr) return nullptr;
  Runtime found;
  if (!find(library, "GOMP_parallel", found.parallel) || !find(library, "omp_get_thread_num", found.thread) ||
      !find(library, "omp_get_num_threads", found.threads) ||
      !find(library, "omp_get_max_threads", found.most_threads)) {
    return nullptr;
  }
  static const Runtime functions = found;
  known.store(&functions, std::memory_order_release);
  return &functions;
}

}  // namespace

// Hidden, so that they serve this module alone; `used`, since the compiler calls them after link-time
// optimisation has looked for callers.
#define FASTSCHED_OPENMP extern "C" __attribute__((used, visibility("hidden")))

FASTSCHED_OPENMP void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) {
  const Runtime* const found = runtime();
  found != nullptr ? found->parallel(body, data, threads, flags) : body(data);
}
FASTSCHED_OPENMP int omp_get_thread_num() {
  const Runtime* const found = runtime();
  return found != nullptr ? found->thread() : 0;
}
FASTSCHED_OPENMP int omp_get_num_threads() {
  const Runtime* const found = runtime();
  return found != nullptr ? found->threads() : 1;
}
FASTSCHED_OPENMP int omp_get_max_threads() {
  const Runtime* const found = runtime();
  return found != nullptr ? found->most_threads() : 1;
}
