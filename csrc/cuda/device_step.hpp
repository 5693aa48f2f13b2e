// One optimizer's step on one device: what lies in its memory, what is sent when something has changed, and
// the launches of an update. Knows nothing of Python; kernels come from whoever made it.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cpu/row.hpp"
#include "cuda/driver.hpp"
#include "cuda/tables.hpp"

namespace fastsched::cuda {

// The tensors of one update, in any order.
struct DeviceWork {
  std::vector<DeviceTensor> tensors;
  std::vector<int> codes;  // of Variant, one per tensor
  std::vector<std::int64_t> layouts;

  void clear() { tensors.clear(), codes.clear(), layouts.clear(); }
};

// What an update depends on beside its tensors; see ControlArgs.
struct StepInputs {
  Phase phase = Phase::whole;
  bool take_norm = false;  // of this device's gradients
  const double* joined = nullptr;
  const void* given_norm_at = nullptr;
  Format given_norm_format = Format::float32;
  double given_norm = std::numeric_limits<double>::quiet_NaN();
  const float *grad_scale = nullptr, *found_inf = nullptr;
  double unscale = 1;
  bool skip = false;
};

class DeviceStep {
public:
  using Load = std::function<Kernel(const Device&, const std::string& name)>;

  DeviceStep(const Device& device, const Settings& settings, Load load);
  ~DeviceStep();
  DeviceStep(const DeviceStep&) = delete;
  DeviceStep& operator=(const DeviceStep&) = delete;

  const Device& device() const { return device_; }

  // ---- what has changed on the host: sent with the next launch

  bool fits(std::size_t groups, std::size_t slots) const { return groups == groups_ && slots <= slots_; }
  // Makes room; what was held is gone, and everything has to be sent again.
  void reset(std::size_t groups, std::size_t slots);
  // Null where a hyperparameter is not scheduled; the last is the decay of the weights' average.
  void set_rows(const Row* const (&rows)[hypers + 1]);
  void set_constants(const std::vector<Constants>& constants);
  void set_lr_tensors(const std::vector<LrTensor>& tensors);
  void set_position(std::int64_t position) { position_ = position; }
  void edit(const HyperEdit& edit) { hyper_edits_.push_back(edit); }
  void edit(const SlotEdit& edit) { slot_edits_.push_back(edit); }

  // ---- an update

  // Loads the kernels that an update of `work` needs, which may take seconds and run other code.
  void load(const DeviceWork& work, bool norm, bool join);
  // What NormKind says of this device's gradients, left at joined[0], beside `made`: both in its memory.
  void join(StreamHandle stream, const DeviceWork& work, bool made, double* joined);
  // The same for the host, which waits for it.
  double sum(StreamHandle stream, const DeviceWork& work);
  void step(StreamHandle stream, const DeviceWork& work, const StepInputs& inputs);
  // Zeroes the gradients of `work`.
  void zero(StreamHandle stream, const DeviceWork& work);
  // Sends what is waiting now.
  void flush(StreamHandle stream);

  // ---- what the device has come to

  // A graph holds launches of this step and may replay them at any time.
  bool captured() const { return captured_; }
  // What `control` left when it last ran; waits for it. Of replays, those on `stream` are waited for.
  Report report(StreamHandle stream) const;
  std::vector<double> values(StreamHandle stream) const;  // [group][hypers]
  std::vector<Slot> slots(StreamHandle stream) const;

private:
  struct Launch {
    int code;
    std::size_t first, count;  // of the portions
  };

  // An update's tensors as they lie on the device, with what its kernels tell each other.
  struct Tables {
    Memory memory;
    DeviceWork held;
    std::vector<Launch> launches;
    std::size_t with_gradients = 0;  // portions, the first ones
    DeviceTensor* tensors = nullptr;
    std::int64_t* layouts = nullptr;
    Portion* portions = nullptr;
    Prepared* prepared = nullptr;
    double* partials = nullptr;
  };

  template <class Type>
  Type* at(std::size_t offset) const {
    return reinterpret_cast<Type*>(state_.get() + offset);
  }
  Kernel& kernel(const std::string& name);
  Kernel& control_kernel();
  std::string norm_name() const;
  std::string join_name() const;
  Tables& tables_of(StreamHandle stream, const DeviceWork& work);
  void fill(Tables& tables, StreamHandle stream, const DeviceWork& work);
  void send(StreamHandle stream);
  void send_rows(StreamHandle stream);
  ControlArgs arguments(StreamHandle stream);
  unsigned launch_norm(StreamHandle stream, const Tables& tables);
  void launch_updates(StreamHandle stream, const Tables& tables, bool only_zero);
  void run_control(StreamHandle stream, const ControlArgs& arguments);
  template <class Call>
  void now(StreamHandle stream, Call call);

  const Device& device_;
  Settings settings_;
  Load load_;
  mutable Uploads uploads_;
  std::vector<std::pair<std::string, Kernel>> kernels_;

  std::size_t groups_ = 0, slots_ = 0;
  Memory state_;  // Control, values, constants, lr tensors, slots
  std::size_t values_at_ = 0, constants_at_ = 0, lr_tensors_at_ = 0, slots_at_ = 0;
  HostMemory report_;
  Memory rows_, edits_;
  Tables tables_;
  std::vector<Tables> frozen_;  // those that graphs hold

  bool scheduled_ = false, rows_waiting_ = false, constants_waiting_ = false, lr_tensors_waiting_ = false;
  std::vector<Row> host_rows_;
  std::vector<bool> has_row_;
  std::vector<Constants> constants_;
  std::vector<LrTensor> lr_tensors_;
  std::vector<HyperEdit> hyper_edits_;
  std::vector<SlotEdit> slot_edits_;
  std::int64_t position_ = -1;
  std::int64_t ran_ = 0;           // launches of `control`
  StreamHandle ran_on_ = nullptr;  // the last of them
  bool captured_ = false;
};

}  // namespace fastsched::cuda
