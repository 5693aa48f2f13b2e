// Tensors as the engine reads and makes them: views through DLPack, their layouts, and memory that torch
// shares.
#pragma once

#include <pybind11/pybind11.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "bindings/dlpack.hpp"
#include "tensors.hpp"

namespace fastsched {

inline std::string type_of(pybind11::handle object) { return Py_TYPE(object.ptr())->tp_name; }

// torch's own types of tensors, looked up once and never released: no destructor may run after the
// interpreter is gone.
struct TensorTypes {
  PyTypeObject *tensor, *parameter;
};

inline const TensorTypes& tensor_types() {
  static TensorTypes known = {nullptr, nullptr};
  if (known.tensor != nullptr) return known;
  const pybind11::module_ torch = pybind11::module_::import("torch");
  const auto type = [](const pybind11::object& found) {
    return reinterpret_cast<PyTypeObject*>(pybind11::object(found).release().ptr());
  };
  known.parameter = type(torch.attr("nn").attr("Parameter"));
  known.tensor = type(torch.attr("Tensor"));
  return known;
}

// No subclass, whose attributes and methods may be Python code.
inline bool is_plain(pybind11::handle tensor) {
  const PyTypeObject* type = Py_TYPE(tensor.ptr());
  return type == tensor_types().parameter || type == tensor_types().tensor;
}

// ---- layouts

// Strides of dimensions of length 1 say nothing.
inline bool same_strides(int dims, const std::int64_t* shape, const std::int64_t* a, const std::int64_t* b) {
  for (int d = 0; d < dims; ++d) {
    if (a[d] != b[d] && shape[d] > 1) return false;
  }
  return true;
}

enum class Overlap { dense, gaps, overlapping };

// dense: every address of one block is used once, in some order of the dimensions.
inline Overlap overlap(int dims, const std::int64_t* shape, const std::int64_t* strides) {
  std::int64_t expected = 1;  // the usual case first: rows after rows
  bool in_order = true;
  for (int d = dims - 1; d >= 0; --d) {
    if (shape[d] == 0) return Overlap::dense;
    in_order &= strides[d] == expected || shape[d] == 1;
    expected *= shape[d];
  }
  if (in_order) return Overlap::dense;
  std::vector<std::pair<std::int64_t, std::int64_t>> order;  // stride, length
  for (int d = 0; d < dims; ++d) {
    if (shape[d] > 1) order.emplace_back(strides[d], shape[d]);
  }
  std::sort(order.begin(), order.end());
  std::int64_t span = 1;  // elements reached so far
  bool gaps = false;
  for (const auto& [stride, length] : order) {
    if (stride < span) return Overlap::overlapping;
    gaps |= stride > span;
    span = stride * (length - 1) + span;
  }
  return gaps ? Overlap::gaps : Overlap::dense;
}

// ---- reading

constexpr int on_cpu = -1;
// Addresses within a tensor, in bytes, then stay below 2**63, also where numbers are complex.
constexpr std::int64_t most_elements = std::int64_t{1} << 58;

// False where the engine does not reach that memory.
inline bool find_device(dlpack::Device given, int& device) {
  device = given.type == dlpack::cpu ? on_cpu : given.index;
  return given.type == dlpack::cpu || (given.type == dlpack::cuda && given.index >= 0);
}

// A tensor in the memory of the CPU or of a CUDA device. A complex one is seen as torch.view_as_real sees it:
// a last dimension of 2.
struct View {
  char* at;
  int device;  // of CUDA; on_cpu
  Format format;
  int dims;
  bool complex;
  const std::int64_t* shape;    // borrowed from the tensor, or `real`
  const std::int64_t* strides;  // in elements
  std::int64_t count;
  std::vector<std::int64_t> real;

  // One past the last element's end, from `at` on.
  std::int64_t extent() const {
    if (count == 0) return 0;
    std::int64_t last = 0;
    for (int d = 0; d < dims; ++d) last += (shape[d] - 1) * strides[d];
    return (last + 1) * bytes_of(format);
  }
};

inline bool find_format(dlpack::DataType type, Format& format, bool& complex) {
  complex = type.code == dlpack::complex_floating;
  const int bits = complex ? type.bits / 2 : type.bits;
  if (type.lanes != 1 || (complex && type.bits % 2 != 0)) return false;
  if (type.code == dlpack::brain_floating && bits == 16) {
    format = Format::bfloat16;
  } else if ((type.code == dlpack::floating || complex) && bits == 32) {
    format = Format::float32;
  } else if ((type.code == dlpack::floating || complex) && bits == 64) {
    format = Format::float64;
  } else if (type.code == dlpack::floating && bits == 16) {
    format = Format::float16;
  } else {
    return false;
  }
  return true;
}

// torch.distributed.tensor.DTensor, if anybody has imported it.
inline bool is_sharded(pybind11::handle tensor) {
  namespace py = pybind11;
  if (is_plain(tensor)) return false;
  static PyObject* type = nullptr;  // never released, as the types above
  if (type == nullptr) {
    const py::str name("torch.distributed.tensor");
    const py::object module = py::reinterpret_steal<py::object>(PyImport_GetModule(name.ptr()));
    if (!module) return false;
    type = py::object(module.attr("DTensor")).release().ptr();
  }
  const int result = PyObject_IsInstance(tensor.ptr(), type);
  if (result < 0) throw py::error_already_set();
  return result == 1;
}

// What a rank holds of a DTensor, as a plain tensor: waits for a collective that is still filling it.
inline pybind11::object shard_of(const pybind11::object& tensor) {
  pybind11::object local = tensor.attr("_local_tensor");
  if (!is_plain(local) && pybind11::hasattr(local, "wait")) local = local.attr("wait")();
  return local;
}

// The number of elements; false where the place of one cannot be computed: what an exchange table hands out
// is checked like any other input, since kernels trust it. torch's tables give all strides, and none is
// negative.
inline bool find_count(const dlpack::Tensor& tensor, std::int64_t& count) {
  const std::uint64_t furthest = tensor.data == nullptr ? 0 : most_elements;  // else the address may wrap
  if (tensor.ndim < 0 || tensor.byte_offset > furthest) return false;
  if (tensor.ndim > 0 && (tensor.shape == nullptr || tensor.strides == nullptr)) return false;
  std::int64_t filled = 1, last = 0;  // empty dimensions left out
  count = 1;
  for (std::int32_t d = 0; d < tensor.ndim; ++d) {
    const std::int64_t length = tensor.shape[d], stride = tensor.strides[d];
    if (length < 0 || length > most_elements || stride < 0 || stride > most_elements) return false;
    if (length == 0) count = 0;
    if (length <= 1) continue;
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(filled, length, &filled) ||
        __builtin_mul_overflow(length - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last) ||
        filled > most_elements || last >= most_elements) {
      return false;
    }
  }
  count *= filled;
  return true;
}

// False where the tensor has no memory of a known format that can be trusted. Wrapper subclasses (DTensor,
// FakeTensor, functional tensors) come back with a null address and the full shape.
inline bool read_view(PyObject* object, View& view) {
  dlpack::Tensor tensor;
  if (dlpack::exchange().tensor_from_object(object, &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  if (!find_count(tensor, view.count) || !find_format(tensor.dtype, view.format, view.complex) ||
      !find_device(tensor.device, view.device) || (tensor.data == nullptr && view.count != 0)) {
    return false;
  }
  view.at = tensor.address();
  view.dims = tensor.ndim;
  view.shape = tensor.shape;
  view.strides = tensor.strides;
  if (view.complex) {
    view.real.assign(tensor.shape, tensor.shape + tensor.ndim);
    view.real.push_back(2);
    for (int d = 0; d < tensor.ndim; ++d) view.real.push_back(2 * tensor.strides[d]);
    view.real.push_back(1);
    ++view.dims;
    view.count *= 2;
    view.shape = view.real.data();
    view.strides = view.shape + view.dims;
  }
  return true;
}

// ---- making

// Memory that torch tensors and the engine share: freed when the last of them is gone, and at the same
// address until then.
using Memory = std::shared_ptr<char>;
constexpr std::size_t alignment = 64;

inline Memory zeros(std::size_t bytes) {
  char* raw =
      static_cast<char*>(std::calloc(bytes + alignment, 1));  // fresh pages are zero already: no extra pass
  if (raw == nullptr) throw std::bad_alloc();
  const std::size_t shift = alignment - reinterpret_cast<std::uintptr_t>(raw) % alignment;
  constexpr std::uintptr_t huge = std::uintptr_t{1} << 21;
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(raw) + huge - 1) & ~(huge - 1);
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(raw) + bytes) & ~(huge - 1);
  // Huge pages where there are some: the first touch of the memory is most of the first step.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  return Memory(raw + shift, [raw](char*) { std::free(raw); });
}

// The memory of a torch tensor, which lives as long as anybody uses it; torch lets go of tensors from any
// thread.
inline Memory memory_of(pybind11::object tensor, void* at) {
  PyObject* const held = tensor.release().ptr();
  return Memory(static_cast<char*>(at), [held](char*) {
    if (!Py_IsInitialized()) return;
    const PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(held);
    PyGILState_Release(gil);
  });
}

// A torch tensor over `data` inside `memory`, which lies on `device`; the layout is one of a View. torch
// cannot resize its storage, so the address stays good.
inline pybind11::object tensor_over(const Memory& memory, void* data, int device, Format format, bool complex,
                                    const std::vector<std::int64_t>& shape,
                                    const std::vector<std::int64_t>& strides) {
  struct Lease : dlpack::ManagedTensor {
    Memory memory;
    std::int64_t few[8];             // shape and strides of most tensors
    std::vector<std::int64_t> many;  // of others
  };
  auto lease = std::make_unique<Lease>();
  const std::size_t dims = shape.size() - (complex ? 1 : 0);
  lease->memory = memory;
  std::int64_t* sizes = lease->few;
  if (2 * dims > std::size(lease->few)) {
    lease->many.resize(2 * dims);
    sizes = lease->many.data();
  }
  for (std::size_t d = 0; d < dims; ++d) {
    sizes[d] = shape[d];
    sizes[dims + d] = complex ? strides[d] / 2 : strides[d];
  }
  lease->version = {1, 0};
  lease->context = nullptr;
  lease->flags = 0;
  lease->deleter = [](dlpack::ManagedTensor* self) { delete static_cast<Lease*>(self); };
  const std::uint8_t code = complex                      ? dlpack::complex_floating
                            : format == Format::bfloat16 ? dlpack::brain_floating
                                                         : dlpack::floating;
  const auto bits = static_cast<std::uint8_t>(bytes_of(format) * (complex ? 16 : 8));
  const dlpack::Device place =
      device == on_cpu ? dlpack::Device{dlpack::cpu, 0} : dlpack::Device{dlpack::cuda, device};
  lease->tensor = {data, place, static_cast<std::int32_t>(dims), {code, bits, 1}, sizes, sizes + dims, 0};
  void* object = nullptr;
  if (dlpack::exchange().object_from_managed(lease.get(), &object) != 0) throw pybind11::error_already_set();
  lease.release();
  return pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object));
}

}  // namespace fastsched
