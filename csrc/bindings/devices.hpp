// The CUDA devices that an optimizer's tensors lie on. A device advances schedules, counts and averages by
// itself; it is told what has changed on the host, and asked only when somebody wants to know.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "bindings/state.hpp"
#include "cuda/device_step.hpp"

namespace fastsched {

// What the host knows of one device.
struct OnDevice {
  OnDevice(int device_index, const Settings& settings);

  int index;
  cuda::DeviceStep step;
  cuda::DeviceWork work;            // of the update being made
  std::vector<double> told;         // [group][hypers]: what the host sent last
  bool tell_all = true;             // the device knows nothing, or nothing that is right any more
  cuda::StreamHandle on = nullptr;  // torch's stream, at the step being made
  std::int64_t skips_known = 0;     // of those that the device has counted

  cuda::StreamHandle stream() const { return dlpack::current_stream(index); }
  bool is_capturing() const;
};

class Devices {
public:
  bool empty() const { return all_.empty(); }
  std::size_t size() const { return all_.size(); }
  auto begin() const { return all_.begin(); }
  auto end() const { return all_.end(); }
  // Made where an update's tensor is the first there.
  OnDevice& at(int index, const Settings& settings);
  bool captured() const;   // a graph may replay an update of these at any time
  bool capturing() const;  // on one of their streams
  void tell_all();
  // Forgets all others; true where there were any.
  bool keep(const std::unordered_set<int>& used);

private:
  std::vector<std::unique_ptr<OnDevice>> all_;
};

}  // namespace fastsched
