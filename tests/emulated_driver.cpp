// A stand-in for libcuda.so.1: memory on the host's heap, kernels that are shared libraries made by g++,
// streams that can be held back and captured. It reports what the real one forbids, counts calls, fails when
// told to. Second part: a DLPack exchange table that shows torch's CPU tensors as if they lay on a GPU.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using Address = std::uintptr_t;
using Status = int;
enum : Status {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  not_initialized = 3,
  no_device = 100,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  invalid_ptx = 218,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_implicit = 906,
  captured_event = 907
};
enum CaptureMode { global_capture, own_thread_capture, relaxed_capture };
constexpr int most_threads = 1024;
constexpr std::size_t margin = 64;  // bytes on either side of an allocation that nobody may write
constexpr unsigned char margin_byte = 0xA5, fresh_byte = 0xCB;  // of memory that nobody has written

struct Range {
  std::size_t size;
  int device;
};
using Ranges = std::map<Address, Range>;  // by their beginning

struct Work {
  std::string what;  // for the log; empty: an event
  std::function<void()> run;
};

struct Graph {
  std::vector<Work> nodes;
};

struct Stream {
  std::deque<Work> waiting;
  bool held = false;
  std::unique_ptr<Graph> graph;  // while it is being captured
  bool invalidated = false;
};

struct Event {
  int recorded = 0, happened = 0;
  bool captured = false;
};

struct Function {
  std::string name;
  void (*run)(unsigned blocks, void** parameters);
  std::size_t size;  // of its struct
};

struct Context {
  int device;
};

int from_environment(const char* name, int usual) {
  const char* const text = std::getenv(name);
  return text != nullptr && *text != '\0' ? std::atoi(text) : usual;
}

struct Machine {
  std::recursive_mutex lock;
  int version = from_environment("EMULATED_VERSION", 13000);
  int devices = from_environment("EMULATED_DEVICES", 1);
  int capability = from_environment("EMULATED_CAPABILITY", 90);
  bool initialized = false;
  std::map<int, std::unique_ptr<Context>> contexts;
  Ranges allocated, freed, locked, registered;
  Stream legacy;  // the null stream
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::map<std::string, std::pair<Status, int>> failures;  // per call: status, how many calls before it
  std::map<std::string, std::int64_t> counts;
  std::string log, violations, text;
  // Of the exchange table.
  bool every_tensor = false;
  int tensors_device = 0;
  void* current_stream = nullptr;
};

Machine& machine() {
  static auto& made = *new Machine;
  return made;
}

thread_local std::vector<Context*> context_stack;
thread_local int capture_mode = global_capture;

void violation(const std::string& text) { machine().violations += text + "\n"; }

const Range* range_of(const Ranges& ranges, Address at, std::size_t size, Address* begin = nullptr) {
  auto found = ranges.upper_bound(at);
  if (found == ranges.begin()) return nullptr;
  --found;
  if (at - found->first + size > found->second.size) return nullptr;  // the sum of both may overflow
  if (begin != nullptr) *begin = found->first;
  return &found->second;
}

// Where every tensor is on the device, anything may be.
bool on_device(Address at, std::size_t size) {
  return machine().every_tensor || range_of(machine().allocated, at, size) != nullptr ||
         range_of(machine().registered, at, size) != nullptr;
}

bool anything_captured() {
  return std::any_of(machine().streams.begin(), machine().streams.end(),
                     [](const Stream* stream) { return stream->graph != nullptr; });
}

void invalidate() {
  for (Stream* stream : machine().streams) stream->invalidated |= stream->graph != nullptr;
}

// One call from its beginning to its end.
class Call {
public:
  explicit Call(const char* name) : name_(name), held_(machine().lock) {
    ++machine().counts[name];
    machine().log += std::string(name) + "\n";
    auto found = machine().failures.find(name);
    if (found != machine().failures.end() && found->second.second-- == 0) {
      status_ = found->second.first;
      machine().failures.erase(found);
    } else if (!machine().initialized) {
      status_ = not_initialized;
    }
  }
  // What has to hold, in this order; the first that does not decides.
  Call& needs_context() {
    if (status_ == success && context_stack.empty()) refuse(invalid_context, "without a current context");
    return *this;
  }
  // What a thread may not do while a stream is being captured, or it says that it knows better.
  Call& may_wait() {
    if (status_ == success && capture_mode != relaxed_capture && anything_captured()) {
      invalidate();
      refuse(capture_unsupported, "while a stream is being captured");
    }
    return *this;
  }
  Call& needs(bool holds, Status status, const char* why) {
    if (status_ == success && !holds) refuse(status, why);
    return *this;
  }
  void refuse(Status status, const char* why) {
    status_ = status;
    violation(std::string(name_) + ": " + why);
  }
  bool ok() const { return status_ == success; }
  Status status() const { return status_; }
  Status give(Status status) const { return status_ == success ? status : status_; }
  const char* name() const { return name_; }

private:
  const char* name_;
  std::lock_guard<std::recursive_mutex> held_;
  Status status_ = success;
};

Stream* stream_of(void* handle) {
  Machine& m = machine();
  if (handle == nullptr) return &m.legacy;
  auto* const stream = static_cast<Stream*>(handle);
  return m.streams.count(stream) != 0 ? stream : nullptr;
}

void run(Work& work) {
  if (!work.what.empty()) machine().log += work.what + "\n";
  work.run();
}

void catch_up(Stream& stream) {
  while (!stream.waiting.empty()) {
    Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    run(work);
  }
}

// `capturable`: may become a node of a graph.
Status submit(Call& call, void* handle, bool capturable, Work work) {
  Stream* const stream = stream_of(handle);
  call.needs(stream != nullptr, invalid_handle, "on a stream that does not exist");
  if (!call.ok()) return call.status();
  if (stream->graph != nullptr) {
    if (stream->invalidated) return capture_invalidated;
    if (!capturable) {
      stream->invalidated = true;
      call.refuse(capture_unsupported, "on a stream that is being captured");
      return call.status();
    }
    stream->graph->nodes.push_back(std::move(work));
    return success;
  }
  if (stream == &machine().legacy && anything_captured()) {
    invalidate();
    call.refuse(capture_implicit, "on the default stream while another is being captured");
    return call.status();
  }
  if (stream->held) {
    stream->waiting.push_back(std::move(work));
  } else {
    run(work);
  }
  return success;
}

// Words of a kernel's struct that can only be addresses of memory given back.
void check_arguments(const Function& function, const std::vector<char>& arguments) {
  for (std::size_t i = 0; i + sizeof(Address) <= arguments.size(); i += sizeof(Address)) {
    Address word;
    std::memcpy(&word, arguments.data() + i, sizeof word);
    if (range_of(machine().freed, word, 1) != nullptr) {
      violation("cuLaunchKernel: " + function.name + ": its argument at byte " + std::to_string(i) +
                " is memory that was freed");
    }
  }
}

bool is_whole(unsigned char* edge) {
  const bool whole = std::all_of(edge, edge + margin, [](unsigned char byte) { return byte == margin_byte; });
  std::memset(edge, margin_byte, margin);  // one violation is reported once
  return whole;
}

void check_margins() {
  for (const auto& [at, range] : machine().allocated) {
    auto* const begin = reinterpret_cast<unsigned char*>(at);
    const bool before = is_whole(begin - margin), after = is_whole(begin + range.size);
    if (!before || !after) {
      violation("a kernel wrote outside an allocation of " + std::to_string(range.size) + " bytes");
    }
  }
}

// The bytes of a shared library, from its own header.
std::size_t size_of_image(const void* image) {
  Elf64_Ehdr header;
  std::memcpy(&header, image, sizeof header);
  return header.e_shoff + static_cast<std::size_t>(header.e_shentsize) * header.e_shnum;
}

void* load_image(const void* image) {
  const int file = memfd_create("kernel", MFD_CLOEXEC);  // stays open: the loader goes by names
  const std::size_t size = size_of_image(image);
  if (file < 0 || write(file, image, size) != static_cast<ssize_t>(size)) return nullptr;
  return dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
}

}  // namespace

// ---- the driver

extern "C" {

Status cuInit(unsigned) {
  machine().initialized = true;
  Call call("cuInit");
  if (call.ok() && machine().devices == 0) return no_device;
  return call.status();
}

Status cuDriverGetVersion(int* version) {  // works before cuInit
  ++machine().counts["cuDriverGetVersion"];
  *version = machine().version;
  return success;
}

Status cuGetErrorName(Status status, const char** name) {
  switch (status) {
    case out_of_memory:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      break;
    case not_initialized:
      *name = "CUDA_ERROR_NOT_INITIALIZED";
      break;
    case no_device:
      *name = "CUDA_ERROR_NO_DEVICE";
      break;
    case illegal_address:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      break;
    case capture_unsupported:
      *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
      break;
    case capture_implicit:
      *name = "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT";
      break;
    case captured_event:
      *name = "CUDA_ERROR_CAPTURED_EVENT";
      break;
    case not_found:
      *name = "CUDA_ERROR_NOT_FOUND";
      break;
    case invalid_ptx:
      *name = "CUDA_ERROR_INVALID_PTX";
      break;
    default:
      *name = nullptr;
      return invalid_value;
  }
  return success;
}

Status cuGetErrorString(Status status, const char** text) {
  *text = status == out_of_memory ? "out of memory" : "emulated";
  return success;
}

Status cuDeviceGetCount(int* count) {
  Call call("cuDeviceGetCount");
  *count = machine().devices;
  return call.status();
}

Status cuDeviceGet(int* device, int index) {
  Call call("cuDeviceGet");
  call.needs(index >= 0 && index < machine().devices, invalid_device, "of a device that does not exist");
  *device = 100 + index;  // a handle is not an index
  return call.status();
}

Status cuDeviceGetName(char* name, int size, int device) {
  Call call("cuDeviceGetName");
  std::strncpy(name, ("Emulated GPU " + std::to_string(device - 100)).c_str(),
               static_cast<std::size_t>(size));
  return call.status();
}

Status cuDeviceGetAttribute(int* value, int attribute, int) {
  Call call("cuDeviceGetAttribute");
  call.needs(attribute == 75 || attribute == 76, invalid_value, "of an attribute that is not emulated");
  *value = attribute == 75 ? machine().capability / 10 : machine().capability % 10;
  return call.status();
}

Status cuDevicePrimaryCtxRetain(void** context, int device) {
  Call call("cuDevicePrimaryCtxRetain");
  auto& made = machine().contexts[device - 100];
  if (made == nullptr) made.reset(new Context{device - 100});
  *context = made.get();
  return call.status();
}

Status cuCtxPushCurrent_v2(void* context) {
  Call call("cuCtxPushCurrent");
  if (call.ok()) context_stack.push_back(static_cast<Context*>(context));
  return call.status();
}

Status cuCtxPopCurrent_v2(void** context) {
  Call call("cuCtxPopCurrent");
  call.needs_context();
  if (!call.ok()) return call.status();
  *context = context_stack.back();
  context_stack.pop_back();
  return success;
}

Status cuModuleLoadData(void** module, const void* image) {
  Call call("cuModuleLoadData");
  call.needs_context().may_wait();
  if (!call.ok()) return call.status();
  if (std::memcmp(image, ELFMAG, SELFMAG) != 0) return invalid_ptx;
  *module = load_image(image);
  return *module != nullptr ? success : invalid_image;
}

Status cuModuleGetFunction(void** function, void* module, const char* name) {
  Call call("cuModuleGetFunction");
  call.needs_context();
  if (!call.ok()) return call.status();
  void* const found = dlsym(module, name);
  const auto* const size =
      static_cast<const std::size_t*>(dlsym(module, (std::string(name) + "_size").c_str()));
  const auto* const of =
      static_cast<const char* const*>(dlsym(module, (std::string(name) + "_name").c_str()));
  if (found == nullptr) return not_found;
  *function = new Function{of != nullptr ? *of : name, reinterpret_cast<void (*)(unsigned, void**)>(found),
                           size != nullptr ? *size : 0};
  return success;
}

Status cuLaunchKernel(void* handle, unsigned blocks, unsigned y, unsigned z, unsigned threads,
                      unsigned threads_y, unsigned threads_z, unsigned shared, void* stream,
                      void** parameters, void** extra) {
  Call call("cuLaunchKernel");
  call.needs_context()
      .needs(blocks >= 1 && blocks <= 0x7fffffffu && y == 1 && z == 1, invalid_value,
             "a grid that is not allowed")
      .needs(threads >= 1 && threads <= most_threads && threads_y == 1 && threads_z == 1, invalid_value,
             "a block that is not allowed")
      .needs(shared == 0 && extra == nullptr, invalid_value, "options that are not emulated");
  if (!call.ok()) return call.status();
  const Function& function = *static_cast<const Function*>(handle);
  const auto* const from = static_cast<const char*>(parameters[0]);
  std::vector<char> arguments(from, from + function.size);
  check_arguments(function, arguments);
  const std::string what =
      "launch " + function.name + " " + std::to_string(blocks) + " " + std::to_string(threads);
  return submit(call, stream, true, {what, [&function, blocks, arguments]() mutable {
                                       std::vector<char> own = arguments;  // as a replay finds them
                                       void* pointers[] = {own.data()};
                                       function.run(blocks, pointers);
                                       check_margins();
                                     }});
}

Status cuMemAlloc_v2(std::uint64_t* at, std::size_t size) {
  Call call("cuMemAlloc");
  call.needs_context().may_wait().needs(size != 0, invalid_value, "of no bytes");
  if (!call.ok()) return call.status();
  const std::size_t alignment = 256, before = (margin + alignment - 1) / alignment * alignment;
  void* raw = nullptr;
  if (posix_memalign(&raw, alignment, before + size + margin) != 0) return out_of_memory;
  auto* const begin = static_cast<unsigned char*>(raw) + before;
  std::memset(begin - margin, margin_byte, margin);
  std::memset(begin, fresh_byte, size);
  std::memset(begin + size, margin_byte, margin);
  *at = reinterpret_cast<Address>(begin);
  machine().allocated[*at] = {size, context_stack.back()->device};
  return success;
}

// What was freed is kept, so that nobody gets the same address and a late write is noticed.
Status cuMemFree_v2(std::uint64_t at) {
  Call call("cuMemFree");
  call.needs_context().may_wait().needs(machine().allocated.count(at) != 0, invalid_value,
                                        "of no allocation");
  if (!call.ok()) return call.status();
  for (Stream* stream : machine().streams) catch_up(*stream);  // as the real one waits
  catch_up(machine().legacy);
  check_margins();
  machine().freed[at] = machine().allocated[at];
  machine().allocated.erase(at);
  return success;
}

Status cuMemHostAlloc(void** at, std::size_t size, unsigned) {
  Call call("cuMemHostAlloc");
  call.needs_context().may_wait();
  if (!call.ok()) return call.status();
  *at = std::malloc(size);
  machine().locked[reinterpret_cast<Address>(*at)] = {size, 0};
  return success;
}

Status cuMemFreeHost(void* at) {
  Call call("cuMemFreeHost");
  const auto number = reinterpret_cast<Address>(at);
  call.needs_context().may_wait().needs(machine().locked.count(number) != 0, invalid_value,
                                        "of no allocation");
  if (!call.ok()) return call.status();
  machine().locked.erase(number);
  std::free(at);
  return success;
}

Status cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t size, void* stream) {
  Call call("cuMemcpyHtoDAsync");
  call.needs_context().needs(on_device(to, size), invalid_value, "to what is no device memory");
  if (!call.ok()) return call.status();
  if (range_of(machine().locked, reinterpret_cast<Address>(from), size) != nullptr) {
    return submit(call, stream, false, {"", [=] { std::memcpy(reinterpret_cast<void*>(to), from, size); }});
  }
  const auto* const bytes = static_cast<const char*>(from);  // pageable memory is read before this returns
  return submit(call, stream, false, {"", [to, copy = std::vector<char>(bytes, bytes + size)] {
                                        std::memcpy(reinterpret_cast<void*>(to), copy.data(), copy.size());
                                      }});
}

Status cuMemcpyDtoHAsync_v2(void* to, std::uint64_t from, std::size_t size, void* stream) {
  Call call("cuMemcpyDtoHAsync");
  call.needs_context().needs(on_device(from, size), invalid_value, "from what is no device memory");
  return submit(call, stream, false, {"", [=] { std::memcpy(to, reinterpret_cast<void*>(from), size); }});
}

Status cuMemsetD8Async(std::uint64_t at, unsigned char byte, std::size_t size, void* stream) {
  Call call("cuMemsetD8Async");
  call.needs_context().needs(on_device(at, size), invalid_value, "of what is no device memory");
  return submit(call, stream, true, {"set", [=] { std::memset(reinterpret_cast<void*>(at), byte, size); }});
}

Status cuStreamCreate(void** handle, unsigned flags) {
  Call call("cuStreamCreate");
  call.needs_context().may_wait().needs(flags == 1, invalid_value,
                                        "of a stream that waits for the default one");
  if (!call.ok()) return call.status();
  auto* const stream = new Stream;
  machine().streams.insert(stream);
  *handle = stream;
  return success;
}

Status cuStreamDestroy_v2(void* handle) {
  Call call("cuStreamDestroy");
  Stream* const stream = stream_of(handle);
  call.needs_context().needs(stream != nullptr && stream != &machine().legacy, invalid_handle,
                             "of no stream");
  if (!call.ok()) return call.status();
  catch_up(*stream);
  machine().streams.erase(stream);
  delete stream;
  return success;
}

Status cuStreamSynchronize(void* handle) {
  Call call("cuStreamSynchronize");
  Stream* const stream = stream_of(handle);
  call.needs_context()
      .needs(stream != nullptr, invalid_handle, "of no stream")
      .needs(stream == nullptr || stream->graph == nullptr, capture_unsupported,
             "of a stream that is being captured")
      .may_wait();
  if (call.ok()) catch_up(*stream);
  return call.status();
}

// A device goes on meanwhile: of a stream that is held, one piece of work happens.
Status cuStreamQuery(void* handle) {
  Call call("cuStreamQuery");
  Stream* const stream = stream_of(handle);
  call.needs_context()
      .needs(stream != nullptr, invalid_handle, "of no stream")
      .needs(stream == nullptr || stream->graph == nullptr, capture_unsupported,
             "of a stream that is being captured")
      .may_wait();
  if (!call.ok() || stream->waiting.empty()) return call.status();
  Work work = std::move(stream->waiting.front());
  stream->waiting.pop_front();
  run(work);
  return call.give(not_ready);
}

Status cuStreamIsCapturing(void* handle, int* status) {
  Call call("cuStreamIsCapturing");
  Stream* const stream = stream_of(handle);
  call.needs(stream != nullptr, invalid_handle, "of no stream");
  if (!call.ok()) return call.status();
  if (stream == &machine().legacy && anything_captured()) return capture_implicit;
  *status = stream->graph == nullptr ? 0 : stream->invalidated ? 2 : 1;
  return success;
}

Status cuThreadExchangeStreamCaptureMode(int* mode) {
  Call call("cuThreadExchangeStreamCaptureMode");
  if (call.ok()) std::swap(*mode, capture_mode);
  return call.status();
}

Status cuEventCreate(void** handle, unsigned) {
  Call call("cuEventCreate");
  call.needs_context();
  if (!call.ok()) return call.status();
  auto* const event = new Event;
  machine().events.insert(event);
  *handle = event;
  return success;
}

Status cuEventDestroy_v2(void* handle) {
  Call call("cuEventDestroy");
  call.needs(machine().events.erase(static_cast<Event*>(handle)) == 1, invalid_handle, "of no event");
  if (call.ok()) delete static_cast<Event*>(handle);
  return call.status();
}

Status cuEventRecord(void* handle, void* stream_handle) {
  Call call("cuEventRecord");
  call.needs_context().needs(machine().events.count(static_cast<Event*>(handle)) != 0, invalid_handle,
                             "of no event");
  if (!call.ok()) return call.status();
  auto* const event = static_cast<Event*>(handle);
  Stream* const stream = stream_of(stream_handle);
  event->captured = stream != nullptr && stream->graph != nullptr;
  if (event->captured) return success;
  const int number = ++event->recorded;
  return submit(call, stream_handle, false, {"", [event, number] { event->happened = number; }});
}

Status cuEventQuery(void* handle) {
  Call call("cuEventQuery");
  auto* const event = static_cast<Event*>(handle);
  call.needs(machine().events.count(event) != 0, invalid_handle, "of no event");
  if (call.ok()) call.needs(!event->captured, captured_event, "of an event that was recorded in a capture");
  call.may_wait();
  return call.give(call.ok() && event->happened != event->recorded ? not_ready : success);
}

Status cuEventSynchronize(void* handle) {
  Call call("cuEventSynchronize");
  auto* const event = static_cast<Event*>(handle);
  call.needs(machine().events.count(event) != 0, invalid_handle, "of no event");
  if (call.ok()) call.needs(!event->captured, captured_event, "of an event that was recorded in a capture");
  call.may_wait();
  if (!call.ok() || event->happened == event->recorded) return call.status();
  for (Stream* stream : machine().streams) catch_up(*stream);
  catch_up(machine().legacy);
  return success;
}

// ---- what tests do

// Forgets counts, logs, violations and failures to come; memory, streams and settings stay.
void emulated_reset() {
  Machine& m = machine();
  m.counts.clear();
  m.failures.clear();
  m.log.clear();
  m.violations.clear();
}

std::int64_t emulated_count(const char* call) {
  const auto found = machine().counts.find(call);
  return found == machine().counts.end() ? 0 : found->second;
}

const char* emulated_log() { return (machine().text = machine().log).c_str(); }

const char* emulated_violations() {
  const std::lock_guard<std::recursive_mutex> held(machine().lock);
  check_margins();
  return (machine().text = machine().violations).c_str();
}

std::int64_t emulated_allocations() { return static_cast<std::int64_t>(machine().allocated.size()); }
std::int64_t emulated_streams() { return static_cast<std::int64_t>(machine().streams.size()); }
std::int64_t emulated_locked_blocks() { return static_cast<std::int64_t>(machine().locked.size()); }
std::int64_t emulated_contexts() { return static_cast<std::int64_t>(context_stack.size()); }
int emulated_capture_mode() { return capture_mode; }

// The call of this name after `later` others returns `status`.
void emulated_fail(const char* call, int status, int later) { machine().failures[call] = {status, later}; }

void emulated_machine(int devices, int capability, int version) {
  machine().devices = devices;
  machine().capability = capability;
  machine().version = version;
}

void emulated_register(void* at, std::size_t size, int device) {
  machine().registered[reinterpret_cast<Address>(at)] = {size, device};
}

void emulated_unregister(void* at) { machine().registered.erase(reinterpret_cast<Address>(at)); }

void* emulated_stream() {
  auto* const stream = new Stream;
  machine().streams.insert(stream);
  return stream;
}

// Work on the stream waits until it is let go, or somebody waits for it.
void emulated_hold(void* handle, int held) {
  Stream* const stream = stream_of(handle);
  stream->held = held != 0;
  if (!stream->held) catch_up(*stream);
}

void emulated_begin_capture(void* stream) { stream_of(stream)->graph = std::make_unique<Graph>(); }

// Null where something that was forbidden has invalidated it.
void* emulated_end_capture(void* handle) {
  Stream* const stream = stream_of(handle);
  std::unique_ptr<Graph> graph = std::move(stream->graph);
  return std::exchange(stream->invalidated, false) ? nullptr : graph.release();
}

std::int64_t emulated_nodes(void* graph) {
  return static_cast<std::int64_t>(static_cast<const Graph*>(graph)->nodes.size());
}

void emulated_replay(void* graph) {
  const std::lock_guard<std::recursive_mutex> held(machine().lock);
  for (Work& node : static_cast<Graph*>(graph)->nodes) run(node);
}

void emulated_end_graph(void* graph) { delete static_cast<Graph*>(graph); }

}  // extern "C"

// ---- tensors: DLPack 1.x and its exchange table, as in csrc/bindings/dlpack.hpp

namespace {

struct Version {
  std::uint32_t major, minor;
};
enum : std::int32_t { dlpack_cpu = 1, dlpack_cuda = 2 };
struct DlDevice {
  std::int32_t type, index;
};
struct Tensor {
  void* data;
  DlDevice device;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};
struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};
struct Header {
  Version version;
  Header* previous;
};
struct Exchange {
  Header header;
  int (*allocate)(Tensor*, ManagedTensor**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from_object)(void*, ManagedTensor**);
  int (*object_from_managed)(ManagedTensor*, void**);
  int (*tensor_from_object)(void*, Tensor*);
  int (*current_stream)(std::int32_t, std::int32_t, void**);
};

Exchange theirs, ours;

void show_on_device(Tensor& tensor) {
  if (tensor.device.type != dlpack_cpu) return;
  const std::lock_guard<std::recursive_mutex> held(machine().lock);
  const Address at = reinterpret_cast<Address>(tensor.data) + tensor.byte_offset;
  const Range* range = range_of(machine().registered, at, 1);
  if (range == nullptr) range = range_of(machine().allocated, at, 1);
  if (range != nullptr) {
    tensor.device = {dlpack_cuda, range->device};
  } else if (machine().every_tensor) {
    tensor.device = {dlpack_cuda, machine().tensors_device};
  }
}

int managed_from_object(void* object, ManagedTensor** managed) {
  const int failed = theirs.managed_from_object(object, managed);
  if (failed == 0) show_on_device((*managed)->tensor);
  return failed;
}

int object_from_managed(ManagedTensor* managed, void** object) {
  if (managed->tensor.device.type == dlpack_cuda) managed->tensor.device = {dlpack_cpu, 0};
  return theirs.object_from_managed(managed, object);
}

int tensor_from_object(void* object, Tensor* tensor) {
  const int failed = theirs.tensor_from_object(object, tensor);
  if (failed == 0) show_on_device(*tensor);
  return failed;
}

int current_stream(std::int32_t type, std::int32_t index, void** stream) {
  if (type != dlpack_cuda) return theirs.current_stream(type, index, stream);
  *stream = machine().current_stream;
  return 0;
}

}  // namespace

extern "C" {

// torch's table with the differences above; null where it has no version that is known here.
void* emulated_exchange(void* torch) {
  auto* header = static_cast<Header*>(torch);
  while (header != nullptr && header->version.major != 1) header = header->previous;
  if (header == nullptr) return nullptr;
  theirs = *reinterpret_cast<Exchange*>(header);
  ours = theirs;
  ours.header.previous = nullptr;
  ours.managed_from_object = managed_from_object;
  ours.object_from_managed = object_from_managed;
  ours.tensor_from_object = tensor_from_object;
  ours.current_stream = current_stream;
  return &ours;
}

// Whether every tensor lies on the device, or only those in memory that is allocated or registered.
void emulated_tensors(int every, int device) {
  machine().every_tensor = every != 0;
  machine().tensors_device = device;
}

void emulated_set_current_stream(void* stream) { machine().current_stream = stream; }

}  // extern "C"
