// csrc/cuda/driver.hpp for tests, by ctypes: what throws there returns 1 here and leaves its message.
#include <cstdint>
#include <exception>
#include <string>

#include "cuda/driver.hpp"

namespace cuda = fastsched::cuda;

namespace {

thread_local std::string message;

template <class Action>
int guarded(Action action) {
  try {
    action();
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
}

const cuda::Device& first() { return cuda::Device::at(0); }

}  // namespace

extern "C" {

const char* message_of_last() { return message.c_str(); }

int load() {
  return guarded([] { first(); });
}

int allocate(std::size_t bytes, cuda::Memory** memory, char** at) {
  return guarded([&] {
    *memory = new cuda::Memory(first(), bytes);
    *at = (*memory)->get();
  });
}

void let_go(cuda::Memory* memory) { memory->let_go(); }
void release(cuda::Memory* memory) { delete memory; }

int make_stream(cuda::OwnStream** stream, void** handle) {
  return guarded([&] {
    *stream = new cuda::OwnStream(first());
    *handle = (*stream)->get();
  });
}

void end_stream(cuda::OwnStream* stream) { delete stream; }

int make_uploads(cuda::Uploads** uploads) {
  return guarded([&] { *uploads = new cuda::Uploads(first()); });
}

int upload(cuda::Uploads* uploads, char* to, const void* from, std::size_t bytes, void* stream) {
  return guarded([&] { uploads->copy(to, from, bytes, stream); });
}

void end_uploads(cuda::Uploads* uploads) { delete uploads; }

int download(void* to, const void* from, std::size_t bytes, void* stream) {
  return guarded([&] {
    const cuda::Device::Current current(first());
    cuda::copy_to_host(to, from, bytes, stream);
  });
}

int set_zero(char* at, std::size_t bytes, void* stream) {
  return guarded([&] {
    const cuda::Device::Current current(first());
    cuda::set_zero(at, bytes, stream);
  });
}

int is_capturing(void* stream, int* capturing) {
  return guarded([&] { *capturing = cuda::is_capturing(stream) ? 1 : 0; });
}

int wait_for(void* stream, int relaxed) {
  return guarded([&] {
    const cuda::Device::Current current(first());
    if (relaxed == 0) return cuda::wait_for(stream);
    const cuda::Relaxed now;
    cuda::wait_for(stream);
  });
}

int load_kernel(const void* image, const char* name, cuda::Kernel** kernel) {
  return guarded([&] {
    const cuda::Device::Current current(first());
    *kernel = new cuda::Kernel(image, name);
  });
}

int launch(const cuda::Kernel* kernel, void* stream, unsigned blocks, unsigned threads,
           const void* arguments) {
  return guarded([&] {
    const cuda::Device::Current current(first());
    kernel->launch(stream, blocks, threads, arguments);
  });
}

}  // extern "C"
