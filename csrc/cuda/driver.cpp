// The driver's functions are declared here and found by name at run time: no CUDA headers, nothing to link.
#include "cuda/driver.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <stdexcept>

namespace fastsched::cuda {
namespace {

// ---- what cuda.h says, as far as it is needed; these are an ABI

using Status = int;
using DevicePointer = unsigned long long;
using Handle = void*;

enum : Status {
  success = 0,
  out_of_memory = 2,
  not_initialized = 3,
  no_device = 100,
  no_binary_for_gpu = 209,
  invalid_ptx = 218,
  unsupported_ptx_version = 222,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_failed = 719,
  first_of_capture = 900,
  last_of_capture = 908
};
constexpr int capability_major = 75, capability_minor = 76;  // CUdevice_attribute
constexpr int relaxed_capture = 2;                           // CUstreamCaptureMode
constexpr unsigned event_without_timing = 2, stream_non_blocking = 1;
constexpr int oldest_driver = 12000;

DevicePointer number_of(const void* address) { return reinterpret_cast<DevicePointer>(address); }

std::string shown(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error("CUDA: " + text); }

// ---- the library

class Library {
public:
  Library() : path_(asked_for()), at_(dlopen(path_, RTLD_NOW | RTLD_LOCAL)) {
    if (at_ == nullptr) {
      const bool own = std::strchr(path_, '/') == nullptr;
      fail(std::string("no driver was found (") + path_ + "); " +
           (own ? "install the NVIDIA driver" : "correct or unset FASTSCHED_LIBCUDA") +
           ", or move the parameters to the CPU");
    }
    auto* const get_version = reinterpret_cast<Status (*)(int*)>(dlsym(at_, "cuDriverGetVersion"));
    if (get_version == nullptr || get_version(&version_) != success) {
      fail(std::string(path_) + " is no CUDA driver; install the NVIDIA driver, or unset FASTSCHED_LIBCUDA");
    }
    if (version_ < oldest_driver) too_old("");
  }
  // The driver stays loaded, as torch's own: what it started cannot be unloaded.

  void* find(const char* symbol) const {
    void* const found = dlsym(at_, symbol);
    if (found == nullptr) too_old(std::string(" and lacks ") + symbol);
    return found;
  }
  int version() const { return version_; }

private:
  static const char* asked_for() {
    const char* const path = std::getenv("FASTSCHED_LIBCUDA");
    return path != nullptr && *path != '\0' ? path : "libcuda.so.1";
  }
  [[noreturn]] void too_old(const std::string& besides) const {
    fail("a driver for CUDA " + shown(oldest_driver) + " or newer is needed, found one for CUDA " +
         shown(version_) + besides + "; upgrade the NVIDIA driver");
  }

  const char* path_;
  void* at_;
  int version_ = 0;
};

// ---- its functions

[[noreturn]] void fail(const char* call, Status status);

template <class... Args>
class Function {
public:
  // `symbol` may be a later version of `name`: cuda.h maps the one to the other.
  Function(const Library& library, const char* name, const char* symbol)
      : name_(name), at_(reinterpret_cast<Status (*)(Args...)>(library.find(symbol))) {}
  Function(const Library& library, const char* name) : Function(library, name, name) {}

  void operator()(Args... args) const {
    const Status status = at_(args...);
    if (status != success) fail(name_, status);
  }
  Status status(Args... args) const { return at_(args...); }
  const char* name() const { return name_; }

private:
  const char* name_;
  Status (*at_)(Args...);
};

struct Driver {
  Library library;
  Function<unsigned> init{library, "cuInit"};
  Function<Status, const char**> error_name{library, "cuGetErrorName"};
  Function<Status, const char**> error_text{library, "cuGetErrorString"};
  Function<int*> device_count{library, "cuDeviceGetCount"};
  Function<int*, int> device{library, "cuDeviceGet"};
  Function<char*, int, int> device_name{library, "cuDeviceGetName"};
  Function<int*, int, int> device_attribute{library, "cuDeviceGetAttribute"};
  Function<Handle*, int> context{library, "cuDevicePrimaryCtxRetain"};
  Function<Handle> push{library, "cuCtxPushCurrent", "cuCtxPushCurrent_v2"};
  Function<Handle*> pop{library, "cuCtxPopCurrent", "cuCtxPopCurrent_v2"};
  Function<Handle*, const void*> load_module{library, "cuModuleLoadData"};
  Function<Handle*, Handle, const char*> find_function{library, "cuModuleGetFunction"};
  Function<Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**,
           void**>
      launch{library, "cuLaunchKernel"};
  Function<DevicePointer*, std::size_t> allocate{library, "cuMemAlloc", "cuMemAlloc_v2"};
  Function<DevicePointer> free{library, "cuMemFree", "cuMemFree_v2"};
  Function<void**, std::size_t, unsigned> allocate_locked{library, "cuMemHostAlloc"};
  Function<void*> free_locked{library, "cuMemFreeHost"};
  Function<DevicePointer, const void*, std::size_t, Handle> upload{library, "cuMemcpyHtoDAsync",
                                                                   "cuMemcpyHtoDAsync_v2"};
  Function<void*, DevicePointer, std::size_t, Handle> download{library, "cuMemcpyDtoHAsync",
                                                               "cuMemcpyDtoHAsync_v2"};
  Function<DevicePointer, unsigned char, std::size_t, Handle> set{library, "cuMemsetD8Async"};
  Function<Handle*, unsigned> make_stream{library, "cuStreamCreate"};
  Function<Handle> end_stream{library, "cuStreamDestroy", "cuStreamDestroy_v2"};
  Function<Handle> wait{library, "cuStreamSynchronize"};
  Function<Handle> stream_status{library, "cuStreamQuery"};
  Function<Handle, int*> capture_status{library, "cuStreamIsCapturing"};
  Function<int*> exchange_capture_mode{library, "cuThreadExchangeStreamCaptureMode"};
  Function<Handle*, unsigned> make_event{library, "cuEventCreate"};
  Function<Handle> end_event{library, "cuEventDestroy", "cuEventDestroy_v2"};
  Function<Handle, Handle> record{library, "cuEventRecord"};
  Function<Handle> event_status{library, "cuEventQuery"};
  Function<Handle> wait_for_event{library, "cuEventSynchronize"};
};

std::string text_of(const Driver& driver, Status status);
std::string advice_for(Status status);

// ---- loaded once

std::atomic<const Driver*> loaded{nullptr};
std::atomic<bool> started{false};  // this process, or the one that it was forked from, has begun to load it
std::atomic<bool> forked{false};   // since then

[[noreturn]] void fail_forked() {
  fail(
      "this process was forked from one that used CUDA already, whose driver does not work here; "
      "start it with torch.multiprocessing's 'spawn' or 'forkserver'");
}

// Nobody waits for the GIL while holding this lock, so it may be waited for with the GIL.
std::mutex& loading() {
  static auto& lock = *new std::mutex;
  return lock;
}

const Driver* load() {
  static const int watching = pthread_atfork(nullptr, nullptr, [] { forked = started.load(); });
  (void)watching;
  auto driver = std::make_unique<Driver>();
  started = true;  // cuInit has threads and locks, which a fork does not copy
  const Status status = driver->init.status(0);
  if (status != success) started = false;
  if (status != success && status != no_device) {
    fail("cuInit: " + text_of(*driver, status) + "; " + advice_for(status));
  }
  return driver.release();
}

const Driver& driver() {
  if (forked) fail_forked();
  if (const Driver* const known = loaded.load(std::memory_order_acquire)) return *known;
  const std::lock_guard<std::mutex> lock(loading());
  if (loaded.load(std::memory_order_relaxed) == nullptr) loaded.store(load(), std::memory_order_release);
  return *loaded.load(std::memory_order_relaxed);
}

std::string text_of(const Driver& driver, Status status) {
  const char *name = nullptr, *text = nullptr;
  driver.error_name.status(status, &name);
  driver.error_text.status(status, &text);
  if (name == nullptr) return "error " + std::to_string(status);
  return std::string(name) + ": " + (text != nullptr ? text : "");
}

[[noreturn]] void fail(const char* call, Status status) {
  fail(std::string(call) + ": " + text_of(driver(), status) + "; " + advice_for(status));
}

std::string advice_for(Status status) {
  switch (status) {
    case out_of_memory:
      return "free memory on the device: a smaller batch, or torch.cuda.empty_cache() for what torch keeps "
             "unused";
    case not_initialized:
      return "a process that was forked from one that used CUDA cannot use it: start it with "
             "torch.multiprocessing's 'spawn' or 'forkserver'";
    case no_device:
      return "check CUDA_VISIBLE_DEVICES, or move the parameters to the CPU";
    case no_binary_for_gpu:
    case invalid_ptx:
    case unsupported_ptx_version:
      return "the kernel was compiled for another device or by an NVRTC newer than the driver: upgrade the "
             "NVIDIA driver, or install the NVRTC of its version";
    case not_found:
      return "the kernel's image is not of these sources: remove the folder of compiled kernels, which "
             "`fastsched doctor` names";
    default:
      break;
  }
  if (status >= first_of_capture && status <= last_of_capture) {
    return "not allowed while a stream is being captured: make a few updates before the capture, and capture "
           "on a stream of its own";
  }
  if (status >= illegal_address && status <= launch_failed) {
    return "a kernel failed, perhaps an earlier one of somebody else, and the process must be started again: "
           "run it with CUDA_LAUNCH_BLOCKING=1 to see which";
  }
  return "run `fastsched doctor`, which tells whether the driver works";
}

// For destructors, which may run at any time: while streams are captured, after a fork, when the driver is
// gone. Nothing fails; what a context held that cannot be reached is left to it.
class Quietly {
public:
  explicit Quietly(const Device& device) noexcept {
    const Driver* const known = loaded.load(std::memory_order_acquire);
    if (forked || known == nullptr) return;
    try {
      current_.emplace(device);
      relaxed_.emplace();
      driver_ = known;
    } catch (const std::exception&) {
    }
  }
  explicit operator bool() const { return driver_ != nullptr; }
  const Driver* operator->() const { return driver_; }

private:
  const Driver* driver_ = nullptr;
  std::optional<Device::Current> current_;
  std::optional<Relaxed> relaxed_;
};

}  // namespace

// ---- devices

int Device::driver_version() { return driver().library.version(); }

int Device::count() {
  int count = 0;
  const Status status = driver().device_count.status(&count);
  if (status == no_device || status == not_initialized) return 0;  // cuInit found none
  if (status != success) fail(driver().device_count.name(), status);
  return count;
}

Device& Device::at(int index) {
  // Never destroyed: tensors may outlive every static object.
  static auto& known = *new std::vector<std::unique_ptr<Device>>;
  static auto& lock = *new std::mutex;
  driver();  // fails after a fork, when the lock's state is not known
  const std::lock_guard<std::mutex> locked(lock);
  const auto found =
      std::find_if(known.begin(), known.end(), [&](const auto& device) { return device->index() == index; });
  if (found != known.end()) return **found;
  known.emplace_back(new Device(index));
  return *known.back();
}

Device::Device(int index) : index_(index) {
  const int devices = count();
  if (index < 0 || index >= devices) {
    fail("there are " + std::to_string(devices) + " devices, got index " + std::to_string(index) +
         "; check CUDA_VISIBLE_DEVICES");
  }
  const Driver& driver = cuda::driver();
  char name[256] = "";
  driver.device(&handle_, index);
  driver.device_name(name, static_cast<int>(sizeof name), handle_);
  name_ = name;
  driver.device_attribute(&capability_.first, capability_major, handle_);
  driver.device_attribute(&capability_.second, capability_minor, handle_);
  const Relaxed relaxed;
  driver.context(&context_, handle_);
}

Device::Current::Current(const Device& device) { driver().push(device.context_); }

Device::Current::~Current() {
  const Driver* const known = loaded.load(std::memory_order_acquire);
  Handle ours;
  if (known != nullptr && !forked) known->pop.status(&ours);
}

// ---- kernels

Kernel::Kernel(const void* image, const char* name) {
  const Relaxed relaxed;
  Handle module;
  driver().load_module(&module, image);
  driver().find_function(&function_, module, name);
}

void Kernel::launch(StreamHandle stream, unsigned blocks, unsigned threads, const void* arguments) const {
  if (blocks == 0) return;
  void* pointers[] = {const_cast<void*>(arguments)};  // the driver copies what they point to
  driver().launch(function_, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, nullptr);
}

// ---- memory

Memory::Memory(const Device& device, std::size_t bytes) : device_(&device) {
  if (bytes == 0) return;  // which the driver refuses
  const Device::Current current(device);
  const Relaxed relaxed;
  DevicePointer at = 0;
  const Status status = driver().allocate.status(&at, bytes);
  if (status == out_of_memory) {
    fail("cuMemAlloc: " + text_of(driver(), status) + "; " + std::to_string(bytes) +
         " bytes were asked for on cuda:" + std::to_string(device.index()) + ": " + advice_for(status));
  }
  if (status != success) fail(driver().allocate.name(), status);
  at_ = reinterpret_cast<Address>(at);
  size_ = bytes;
}

Memory::~Memory() {
  if (at_ == nullptr) return;
  const Quietly driver(*device_);
  if (driver) driver->free.status(number_of(at_));
}

void Memory::swap(Memory& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(at_, other.at_);
  std::swap(size_, other.size_);
}

HostMemory::HostMemory(const Device& device, std::size_t bytes) : device_(&device) {
  constexpr unsigned portable_and_mapped = 1 | 2;
  const Device::Current current(device);
  const Relaxed relaxed;
  void* at = nullptr;
  driver().allocate_locked(&at, bytes, portable_and_mapped);
  std::memset(at, 0, bytes);
  at_ = static_cast<char*>(at);
}

HostMemory::~HostMemory() {
  if (at_ == nullptr) return;
  const Quietly driver(*device_);
  if (driver) driver->free_locked.status(at_);
}

// ---- streams

bool is_idle(StreamHandle stream) {
  const Status status = driver().stream_status.status(stream);
  if (status != success && status != not_ready) fail(driver().stream_status.name(), status);
  return status == success;
}

bool is_capturing(StreamHandle stream) {
  int status = 0;
  driver().capture_status(stream, &status);
  return status != 0;  // also where the capture has failed already
}

Relaxed::Relaxed() : mode_(relaxed_capture) { driver().exchange_capture_mode(&mode_); }

Relaxed::~Relaxed() {
  const Driver* const known = loaded.load(std::memory_order_acquire);
  if (known != nullptr && !forked) known->exchange_capture_mode.status(&mode_);
}

OwnStream::OwnStream(const Device& device) : device_(device) {
  const Device::Current current(device);
  const Relaxed relaxed;
  driver().make_stream(&stream_, stream_non_blocking);
}

OwnStream::~OwnStream() {
  const Quietly driver(device_);
  if (driver) driver->end_stream.status(stream_);
}

void wait_for(StreamHandle stream) { driver().wait(stream); }

// ---- copies

struct Uploads::Block {
  // In the current context.
  explicit Block(std::size_t bytes) : size(bytes) {
    driver().make_event(&event, event_without_timing);
    const Status status = driver().allocate_locked.status(&at, bytes, 0);
    if (status == success) return;
    driver().end_event.status(event);
    fail(driver().allocate_locked.name(), status);
  }
  ~Block() {
    driver().wait_for_event.status(event);  // the device may still read it
    driver().free_locked.status(at);
    driver().end_event.status(event);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  bool in_use() const {
    const Status status = driver().event_status.status(event);
    if (status != success && status != not_ready) fail(driver().event_status.name(), status);
    return status == not_ready;
  }

  void* at = nullptr;
  Handle event = nullptr;
  std::size_t size;
};

Uploads::Uploads(const Device& device) : device_(device) {}

Uploads::~Uploads() {
  const Quietly driver(device_);
  if (driver) {
    blocks_.clear();
  } else {
    for (auto& block : blocks_) static_cast<void>(block.release());  // to the end of the process
  }
}

void Uploads::copy(Address to, const void* from, std::size_t bytes, StreamHandle stream) {
  constexpr std::size_t smallest = 16384;
  constexpr int most_in_use = 4;  // of which others may be free: uploads of one stream end in order
  if (bytes == 0) return;
  const Device::Current current(device_);
  const Relaxed relaxed;  // events may be asked although another stream is being captured
  if (is_capturing(stream)) {
    fail(
        "an upload would become part of the graph that is being captured, and its source is gone at the "
        "replay; this is a bug in fastsched, please report it");
  }
  // In the order of their use, oldest first.
  auto free = blocks_.end();
  int in_use = 0;
  for (auto block = blocks_.begin(); block != blocks_.end() && in_use < most_in_use; ++block) {
    if ((*block)->size < bytes) continue;
    if (!(*block)->in_use()) {
      free = block;
      break;
    }
    ++in_use;
  }
  if (free == blocks_.end()) {
    std::size_t size = smallest;
    while (size < bytes) size *= 2;
    blocks_.push_back(std::make_unique<Block>(size));
    free = blocks_.end() - 1;
  }
  Block& block = **free;
  std::rotate(free, free + 1, blocks_.end());
  std::memcpy(block.at, from, bytes);
  driver().upload(number_of(to), block.at, bytes, stream);
  driver().record(block.event, stream);
}

void copy_to_host(void* to, const void* from, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  driver().download(to, number_of(from), bytes, stream);
  wait_for(stream);
}

void set_zero(Address at, std::size_t bytes, StreamHandle stream) {
  if (bytes != 0) driver().set(number_of(at), 0, bytes, stream);
}

}  // namespace fastsched::cuda
