// The plain loops that a step is measured against. benchmarks/baselines.py compiles and calls them.
#include <Python.h>

#include <cstdint>
#include <initializer_list>

// Reads four arrays and writes three of them, as an AdamW step does, with next to no arithmetic.
extern "C" void stream(float* const* p, const float* const* g, float* const* m, float* const* v,
                       const std::int64_t* lengths, std::int64_t arrays, int threads) {
#pragma omp parallel num_threads(threads)
  for (std::int64_t a = 0; a < arrays; ++a) {
    float* __restrict pa = p[a], * __restrict ma = m[a], * __restrict va = v[a];
    const float* __restrict ga = g[a];
#pragma omp for schedule(static) nowait
    for (std::int64_t i = 0; i < lengths[a]; ++i) {
      pa[i] += ga[i];
      ma[i] += ga[i];
      va[i] += ga[i];
    }
  }
}

namespace {

// DLPack's ABI (github.com/dmlc/dlpack), as far as it is read here.
struct Tensor {
  char* data;
  std::int32_t device[2], dims;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t offset;
};

struct Exchange {
  std::uint32_t version[2];
  void *previous, *allocate, *managed_from_object, *object_from_managed;
  int (*tensor_from_object)(void*, Tensor*);
};

}  // namespace

// Where all parameters and gradients lie: the sum of their addresses. The exchange and PyObject_GetAttr,
// nothing else.
extern "C" std::uint64_t read_addresses(PyObject* params, PyObject* grad_name, PyObject* capsule) {
  const auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  std::uint64_t sum = 0;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params); ++i) {
    PyObject* const param = PyList_GET_ITEM(params, i);
    PyObject* const grad = PyObject_GetAttr(param, grad_name);
    for (PyObject* const object : {param, grad}) {
      Tensor tensor;
      if (object == nullptr || exchange->tensor_from_object(object, &tensor) != 0) return 0;
      sum += reinterpret_cast<std::uint64_t>(tensor.data + tensor.offset);
    }
    Py_DECREF(grad);
  }
  return sum;
}
