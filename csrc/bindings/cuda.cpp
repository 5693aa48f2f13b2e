// What `fastsched doctor` asks of the CUDA driver.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "cuda/driver.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

py::list devices() {
  py::list found;
  for (int i = 0; i < cuda::Device::count(); ++i) {
    const cuda::Device& device = cuda::Device::at(i);
    found.append(py::make_tuple(device.name(), device.capability()));
  }
  return found;
}

// Runs one block of a kernel on a copy of `memory`, and returns what became of it. `arguments` is the
// kernel's struct, in words of eight bytes; those at `addresses` hold places in the memory.
py::bytes run(int index, const py::bytes& image, const std::string& name, unsigned threads,
              const std::string& memory, const std::string& arguments,
              const std::vector<std::size_t>& addresses) {
  const auto source = static_cast<std::string>(image);  // ends in a zero byte, as PTX must
  std::vector<std::uint64_t> words(arguments.size() / sizeof(std::uint64_t));
  std::memcpy(words.data(), arguments.data(), words.size() * sizeof(std::uint64_t));
  for (const std::size_t at : addresses) {
    if (at >= words.size()) throw py::value_error("cuda_run: addresses must be among the arguments");
  }
  std::string result(memory.size(), '\0');
  {
    const py::gil_scoped_release released;
    const cuda::Device& device = cuda::Device::at(index);
    const cuda::Device::Current current(device);
    const cuda::OwnStream stream(device);
    const cuda::Memory copy(device, memory.size());
    cuda::Uploads uploads(device);
    uploads.copy(copy.get(), memory.data(), memory.size(), stream.get());
    for (const std::size_t at : addresses) words[at] += reinterpret_cast<std::uintptr_t>(copy.get());
    cuda::Kernel(source.data(), name.c_str()).launch(stream.get(), 1, threads, words.data());
    cuda::copy_to_host(&result[0], copy.get(), result.size(), stream.get());
  }
  return py::bytes(result);
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("cuda_driver_version", &cuda::Device::driver_version,
        "The CUDA version of the driver, 13000 for 13.0; RuntimeError without a driver.");
  m.def("cuda_devices", &devices, "Name and capability of every device.");
  m.def("cuda_run", &run, py::arg("index"), py::arg("image"), py::arg("name"), py::arg("threads"),
        py::arg("memory"), py::arg("arguments"), py::arg("addresses"),
        "Runs one block of a kernel on a copy of the memory, and returns that.");
}

}  // namespace fastsched
