#include "bindings/devices.hpp"

#include <algorithm>
#include <map>
#include <string>

namespace py = pybind11;

namespace fastsched {
namespace {

// Loaded once per process; from the disk or from NVRTC. Called with the GIL.
cuda::Kernel load_kernel(const cuda::Device& device, const std::string& name) {
  static auto* const loaded = new std::map<std::pair<int, std::string>, cuda::Kernel>();  // never destroyed
  cuda::Kernel& known = (*loaded)[{device.index(), name}];
  if (known) return known;
  const auto [major, minor] = device.capability();
  const py::object kernel = py::module_::import("fastsched._kernels").attr("kernel");
  const py::tuple found = kernel(py::make_tuple(major, minor), name);
  const auto image = found[0].cast<py::bytes>();
  const auto symbol = found[1].cast<std::string>();
  return known = cuda::Kernel(PyBytes_AS_STRING(image.ptr()), symbol.c_str());
}

}  // namespace

OnDevice::OnDevice(int device_index, const Settings& settings)
    : index(device_index), step(cuda::Device::at(device_index), settings, load_kernel) {}

bool OnDevice::is_capturing() const {
  const cuda::Device::Current current(step.device());
  return cuda::is_capturing(stream());
}

OnDevice& Devices::at(int index, const Settings& settings) {
  for (const auto& device : all_) {
    if (device->index == index) return *device;
  }
  all_.push_back(std::make_unique<OnDevice>(index, settings));
  return *all_.back();
}

bool Devices::captured() const {
  return std::any_of(begin(), end(), [](const auto& device) { return device->step.captured(); });
}

bool Devices::capturing() const {
  return std::any_of(begin(), end(), [](const auto& device) { return device->is_capturing(); });
}

void Devices::tell_all() {
  for (const auto& device : all_) device->tell_all = true;
}

bool Devices::keep(const std::unordered_set<int>& used) {
  const auto unused = [&](const auto& device) { return used.count(device->index) == 0; };
  const auto rest = std::remove_if(all_.begin(), all_.end(), unused);
  const bool any = rest != all_.end();
  all_.erase(rest, all_.end());
  return any;
}

}  // namespace fastsched
