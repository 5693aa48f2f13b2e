// DLPack 1.x as far as fastsched reads it, and torch's exchange table: tensors without linking libtorch.
// The structs are an ABI (github.com/dmlc/dlpack); their order and types must not change.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace fastsched::dlpack {

struct Version {
  std::uint32_t major, minor;
};

enum DeviceType : std::int32_t { cpu = 1, cuda = 2 };
enum TypeCode : std::uint8_t { floating = 2, brain_floating = 4, complex_floating = 5 };

struct Device {
  std::int32_t type, index;
};

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;

  char* address() const { return static_cast<char*>(data) + byte_offset; }
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};

struct Exchange {
  ExchangeHeader header;
  int (*allocate)(Tensor*, ManagedTensor**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from_object)(void*, ManagedTensor**);
  int (*object_from_managed)(ManagedTensor*, void**);
  int (*tensor_from_object)(void*, Tensor*);  // borrowed; may be null
  int (*current_stream)(std::int32_t, std::int32_t, void**);
};

// The table in use; null before the first look at a tensor.
inline const Exchange*& exchange_in_use() {
  static const Exchange* table = nullptr;
  return table;
}

// The table in a capsule of torch's; null where there is none of version 1.
inline const Exchange* exchange_of(pybind11::handle capsule) {
  const ExchangeHeader* header = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
    header = static_cast<ExchangeHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  }
  while (header != nullptr && header->version.major != 1) header = header->previous;
  return reinterpret_cast<const Exchange*>(header);
}

// torch's table; it lives as long as the process. Call with the GIL.
inline const Exchange& exchange() {
  // no guarded initialiser: waiting for its guard with the GIL could deadlock
  const Exchange*& table = exchange_in_use();
  if (table != nullptr) return *table;
  namespace py = pybind11;
  py::object torch = py::module_::import("torch");
  const Exchange* found =
      exchange_of(py::getattr(torch.attr("Tensor"), "__dlpack_c_exchange_api__", py::none()));
  if (found == nullptr || found->tensor_from_object == nullptr || found->object_from_managed == nullptr) {
    throw py::import_error(
        "fastsched.optim: needs torch >= 2.10 (its DLPack exchange table, version 1), got " +
        py::str(torch.attr("__version__")).cast<std::string>() +
        "; upgrade with: pip install 'fastsched[torch]'");
  }
  return *(table = found);
}

// What torch launches kernels of a CUDA device on, from this thread, at the moment.
inline void* current_stream(int device) {
  const Exchange& table = exchange();
  void* stream = nullptr;
  if (table.current_stream == nullptr)
    throw pybind11::import_error("fastsched.optim: this torch tells no stream");
  if (table.current_stream(cuda, device, &stream) != 0) throw pybind11::error_already_set();
  return stream;
}

}  // namespace fastsched::dlpack
