// The CUDA driver, loaded when the first CUDA tensor is seen: nothing links to it, and a machine without it
// runs everything else. Every call that fails throws std::runtime_error, which says what failed and what to
// do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace fastsched::cuda {

using StreamHandle = void*;  // a CUstream, which is also torch's cudaStream_t; null: the default stream
using Address = char*;       // in a device's memory

// A GPU in the context that torch shares (the primary one). Lives as long as the process.
class Device {
public:
  // Loads the driver where that has not happened yet.
  static Device& at(int index);
  static int count();
  static int driver_version();  // as cuDriverGetVersion: 13000 for CUDA 13.0

  int index() const { return index_; }
  const std::string& name() const { return name_; }
  std::pair<int, int> capability() const { return capability_; }

  // Makes the device's context the thread's current one, for a while.
  class Current {
  public:
    explicit Current(const Device& device);
    ~Current();
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
  };

private:
  explicit Device(int index);
  int index_, handle_ = 0;
  void* context_ = nullptr;
  std::string name_;
  std::pair<int, int> capability_;
};

// The functions below act on the current context.

// A kernel of a compiled image, loaded into the current context; stays loaded as long as the process.
class Kernel {
public:
  Kernel() = default;
  Kernel(const void* image, const char* name);
  explicit operator bool() const { return function_ != nullptr; }
  // Every kernel here takes one struct.
  void launch(StreamHandle stream, unsigned blocks, unsigned threads, const void* arguments) const;

private:
  void* function_ = nullptr;
};

// Device memory, freed with its owner unless it was let go.
class Memory {
public:
  Memory() = default;
  Memory(const Device& device, std::size_t bytes);  // not zeroed
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    Memory(std::move(other)).swap(*this);
    return *this;
  }
  ~Memory();
  Address get() const { return at_; }
  std::size_t size() const { return size_; }
  void let_go() { at_ = nullptr, size_ = 0; }  // never freed: somebody else may still use it
  void swap(Memory& other) noexcept;

private:
  const Device* device_ = nullptr;
  Address at_ = nullptr;
  std::size_t size_ = 0;
};

bool is_capturing(StreamHandle stream);

// While it lives, this thread may allocate, and wait for streams that are not captured, although another
// stream is being captured.
class Relaxed {
public:
  Relaxed();
  ~Relaxed();
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;

private:
  int mode_;
};

// Copies to a device without waiting for it: by way of page-locked blocks, each used again once the copy from
// it has happened. One per device.
class Uploads {
public:
  explicit Uploads(const Device& device);
  ~Uploads();
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;
  // `from` may change or go as soon as this returns.
  void copy(Address to, const void* from, std::size_t bytes, StreamHandle stream);

private:
  struct Block;
  const Device& device_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

// Page-locked host memory, zeroed, at the same address on every device.
class HostMemory {
public:
  HostMemory() = default;
  HostMemory(const Device& device, std::size_t bytes);
  HostMemory(HostMemory&& other) noexcept { swap(other); }
  HostMemory& operator=(HostMemory&& other) noexcept {
    HostMemory(std::move(other)).swap(*this);
    return *this;
  }
  ~HostMemory();
  char* get() const { return at_; }
  void let_go() { at_ = nullptr; }
  void swap(HostMemory& other) noexcept { std::swap(device_, other.device_), std::swap(at_, other.at_); }

private:
  const Device* device_ = nullptr;
  char* at_ = nullptr;
};

// Waits until the copy has happened.
void copy_to_host(void* to, const void* from, std::size_t bytes, StreamHandle stream);
void set_zero(Address at, std::size_t bytes, StreamHandle stream);
void wait_for(StreamHandle stream);
bool is_idle(StreamHandle stream);  // nothing is left to be done there

// A stream of one's own, for what must happen now although torch's current one is being captured.
class OwnStream {
public:
  explicit OwnStream(const Device& device);
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  StreamHandle get() const { return stream_; }

private:
  const Device& device_;
  StreamHandle stream_ = nullptr;
};

}  // namespace fastsched::cuda
