#include "cuda/device_step.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

namespace fastsched::cuda {
namespace {

// Places one array after another in a block of memory, each where 16-byte accesses may begin.
class Room {
public:
  template <class Type>
  std::size_t take(std::size_t count) {
    const std::size_t place = size_;
    size_ += (count * sizeof(Type) + 15) / 16 * 16;
    return place;
  }
  std::size_t size() const { return size_; }

private:
  std::size_t size_ = 0;
};

template <class Type>
bool same(const std::vector<Type>& a, const std::vector<Type>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Type)) == 0);
}

}  // namespace

DeviceStep::DeviceStep(const Device& device, const Settings& settings, Load load)
    : device_(device), settings_(settings), load_(std::move(load)), uploads_(device) {}

// A graph that outlives the optimizer replays into this memory: it stays then.
DeviceStep::~DeviceStep() {
  if (!captured_) return;
  for (Memory* memory : {&state_, &rows_, &edits_}) memory->let_go();
  report_.let_go();
  for (Tables& tables : frozen_) tables.memory.let_go();
}

// ---- what has changed on the host

void DeviceStep::reset(std::size_t groups, std::size_t slots) {
  const Device::Current current(device_);
  const Relaxed relaxed;                // another stream may be in a capture
  slots = std::max(slots, 2 * slots_);  // parameters come one by one where someone unfreezes a model
  groups_ = slots_ = 0;                 // whatever fails below: nothing fits
  Room room;
  room.take<Control>(1);
  values_at_ = room.take<double>(groups * hypers);
  constants_at_ = room.take<Constants>(groups);
  lr_tensors_at_ = room.take<LrTensor>(groups);
  slots_at_ = room.take<Slot>(slots);
  if (captured_) {
    state_.let_go();
    report_.let_go();
  }
  state_ = Memory(device_, room.size());
  report_ = HostMemory(device_, sizeof(Report));
  std::vector<char> initial(room.size());
  Control control{};
  control.grad_norm = std::numeric_limits<double>::quiet_NaN();
  std::memcpy(initial.data(), &control, sizeof control);
  const OwnStream own(device_);
  uploads_.copy(state_.get(), initial.data(), initial.size(), own.get());
  wait_for(own.get());
  ran_ = 0;
  constants_.clear();
  lr_tensors_.clear();
  hyper_edits_.clear();
  slot_edits_.clear();
  rows_waiting_ = true;
  groups_ = groups;
  slots_ = slots;
}

void DeviceStep::set_rows(const Row* const (&rows)[hypers + 1]) {
  host_rows_.assign(hypers + 1, Row());
  has_row_.assign(hypers + 1, false);
  scheduled_ = false;
  for (int h = 0; h <= hypers; ++h) {
    if (rows[h] == nullptr) continue;
    host_rows_[h] = *rows[h];
    has_row_[h] = true;
    scheduled_ |= !rows[h]->programs.empty();
  }
  rows_waiting_ = true;
}

void DeviceStep::set_constants(const std::vector<Constants>& constants) {
  const auto equal = [](const Constants& a, const Constants& b) {
    return a.eps == b.eps && a.dampening == b.dampening && a.base == b.base && a.maximize == b.maximize &&
           a.amsgrad == b.amsgrad && a.nesterov == b.nesterov && a.decoupled == b.decoupled;
  };
  if (std::equal(constants.begin(), constants.end(), constants_.begin(), constants_.end(), equal)) return;
  constants_ = constants;
  constants_waiting_ = true;
}

void DeviceStep::set_lr_tensors(const std::vector<LrTensor>& tensors) {
  const auto equal = [](const LrTensor& a, const LrTensor& b) {
    return a.at == b.at && a.format == b.format;
  };
  if (std::equal(tensors.begin(), tensors.end(), lr_tensors_.begin(), lr_tensors_.end(), equal)) return;
  lr_tensors_ = tensors;
  lr_tensors_waiting_ = true;
}

// ---- sending

void DeviceStep::send_rows(StreamHandle stream) {
  Room room;
  std::vector<const Source*> sources;  // distinct ones of all rows
  const auto index_of = [&](const Source* source) {
    return static_cast<std::size_t>(std::find(sources.begin(), sources.end(), source) - sources.begin());
  };
  for (const Row& row : host_rows_) {
    for (const SharedSource& source : row.programs) {
      if (index_of(source.get()) == sources.size()) sources.push_back(source.get());
    }
  }
  std::vector<std::size_t> code_at, samples_at;
  for (const Source* source : sources) {
    code_at.push_back(room.take<Instruction>(source->code.size()));
    samples_at.push_back(room.take<double>(source->samples.size()));
  }
  struct Place {
    std::size_t programs, values, column, scale;
  };
  std::vector<Place> places;
  for (const Row& row : host_rows_) {
    const std::size_t programs = room.take<Program>(row.programs.size());
    const std::size_t values = room.take<double>(row.programs.size());
    const std::size_t column = room.take<std::int32_t>(row.groups());
    places.push_back({programs, values, column, room.take<double>(row.groups())});
  }
  Memory memory(device_, std::max<std::size_t>(room.size(), 16));
  std::vector<char> image(room.size());
  const auto put = [&](std::size_t place, const auto& list) {
    if (!list.empty()) std::memcpy(image.data() + place, list.data(), list.size() * sizeof(list[0]));
  };
  for (std::size_t s = 0; s < sources.size(); ++s) {
    put(code_at[s], sources[s]->code);
    put(samples_at[s], sources[s]->samples);
  }
  DeviceRow rows[hypers + 1] = {};
  for (std::size_t h = 0; h < host_rows_.size(); ++h) {
    const Row& row = host_rows_[h];
    if (!has_row_[h]) continue;
    std::vector<Program> programs;
    for (const SharedSource& source : row.programs) {
      const std::size_t s = index_of(source.get());
      programs.push_back({reinterpret_cast<const Instruction*>(memory.get() + code_at[s]),
                          static_cast<std::int64_t>(source->code.size()),
                          reinterpret_cast<const double*>(memory.get() + samples_at[s])});
    }
    put(places[h].programs, programs);
    put(places[h].column, row.column);
    put(places[h].scale, row.scale);
    rows[h] = {reinterpret_cast<const Program*>(memory.get() + places[h].programs),
               reinterpret_cast<double*>(memory.get() + places[h].values),
               reinterpret_cast<const std::int32_t*>(memory.get() + places[h].column),
               reinterpret_cast<const double*>(memory.get() + places[h].scale),
               static_cast<std::int32_t>(row.programs.size())};
  }
  if (!image.empty()) uploads_.copy(memory.get(), image.data(), image.size(), stream);
  uploads_.copy(state_.get() + offsetof(Control, row), rows, sizeof rows, stream);
  if (captured_) rows_.let_go();  // a replay under way may be reading them
  rows_ = std::move(memory);
  rows_waiting_ = false;
}

// Everything that waits but edits, which `control` makes.
void DeviceStep::send(StreamHandle stream) {
  if (rows_waiting_) send_rows(stream);
  if (constants_waiting_) {
    uploads_.copy(state_.get() + constants_at_, constants_.data(), constants_.size() * sizeof(Constants),
                  stream);
    constants_waiting_ = false;
  }
  if (lr_tensors_waiting_) {
    uploads_.copy(state_.get() + lr_tensors_at_, lr_tensors_.data(), lr_tensors_.size() * sizeof(LrTensor),
                  stream);
    lr_tensors_waiting_ = false;
  }
}

// What every launch of `control` says, with the edits that wait.
ControlArgs DeviceStep::arguments(StreamHandle stream) {
  ControlArgs a{};
  a.settings = settings_;
  a.phase = Phase::edits;
  a.control = at<Control>(0);
  a.report = reinterpret_cast<Report*>(report_.get());
  a.values = at<double>(values_at_);
  a.constants = at<Constants>(constants_at_);
  a.lr_tensors = lr_tensors_.empty() ? nullptr : at<LrTensor>(lr_tensors_at_);
  a.group_count = static_cast<std::int32_t>(groups_);
  a.slots = at<Slot>(slots_at_);
  a.set_position = std::exchange(position_, -1);
  a.given_norm = std::numeric_limits<double>::quiet_NaN();
  a.unscale = 1;
  const std::size_t of_hyper = hyper_edits_.size() * sizeof(HyperEdit);
  const std::size_t of_slots = slot_edits_.size() * sizeof(SlotEdit);
  static_assert(sizeof(HyperEdit) % 16 == 0 && sizeof(SlotEdit) % 16 == 0);
  if (of_hyper + of_slots == 0) return a;
  if (edits_.size() < of_hyper + of_slots) edits_ = Memory(device_, 2 * (of_hyper + of_slots));
  if (of_hyper != 0) uploads_.copy(edits_.get(), hyper_edits_.data(), of_hyper, stream);
  if (of_slots != 0) uploads_.copy(edits_.get() + of_hyper, slot_edits_.data(), of_slots, stream);
  a.hyper_edits = reinterpret_cast<const HyperEdit*>(edits_.get());
  a.slot_edits = reinterpret_cast<const SlotEdit*>(edits_.get() + of_hyper);
  a.hyper_edit_count = static_cast<std::int32_t>(hyper_edits_.size());
  a.slot_edit_count = static_cast<std::int32_t>(slot_edits_.size());
  hyper_edits_.clear();
  slot_edits_.clear();
  return a;
}

void DeviceStep::run_control(StreamHandle stream, const ControlArgs& arguments) {
  control_kernel().launch(stream, 1, control_threads, &arguments);
  ++ran_;
  ran_on_ = stream;
}

// Calls call(stream) so that it has happened when this returns although `stream` is being captured.
template <class Call>
void DeviceStep::now(StreamHandle stream, Call call) {
  if (!is_capturing(stream)) return call(stream);
  const Relaxed relaxed;
  const OwnStream own(device_);
  call(own.get());
  wait_for(own.get());
}

void DeviceStep::flush(StreamHandle stream) {
  const Device::Current current(device_);
  control_kernel();
  now(stream, [&](StreamHandle on) {
    send(on);
    if (position_ < 0 && hyper_edits_.empty() && slot_edits_.empty()) return;
    run_control(on, arguments(on));
  });
}

// ---- kernels

Kernel& DeviceStep::kernel(const std::string& name) {
  for (auto& [known, kernel] : kernels_) {
    if (known == name) return kernel;
  }
  const Relaxed relaxed;  // loading allocates
  kernels_.emplace_back(name, load_(device_, "fastsched::cuda::" + name));
  return kernels_.back().second;
}

Kernel& DeviceStep::control_kernel() { return kernel(scheduled_ ? "control<true>" : "control<false>"); }

std::string DeviceStep::norm_name() const {
  return "norm<" + std::to_string(static_cast<int>(settings_.norm)) + ">";
}

std::string DeviceStep::join_name() const {
  return "join<" + std::to_string(static_cast<int>(settings_.norm)) + ">";
}

static std::string update_name(int code) { return "update<" + std::to_string(code) + ">"; }

void DeviceStep::load(const DeviceWork& work, bool norm, bool join) {
  const Device::Current current(device_);
  control_kernel();
  if (norm) kernel(norm_name());
  if (join) kernel(join_name());
  int last = -1;
  for (const int code : work.codes) {
    if (code != last) kernel(update_name(last = code));
  }
}

// ---- tables

// Of the update's tensors: those of the update before where they are the same ones.
DeviceStep::Tables& DeviceStep::tables_of(StreamHandle stream, const DeviceWork& work) {
  if (!is_capturing(stream)) {
    if (!same(work.tensors, tables_.held.tensors) || work.codes != tables_.held.codes ||
        work.layouts != tables_.held.layouts || tables_.tensors == nullptr) {
      fill(tables_, stream, work);
    }
    return tables_;
  }
  // The graph reads its own again and again, whatever later steps do.
  captured_ = true;
  frozen_.emplace_back();
  now(stream, [&](StreamHandle on) { fill(frozen_.back(), on, work); });
  return frozen_.back();
}

void DeviceStep::fill(Tables& tables, StreamHandle stream, const DeviceWork& work) {
  const std::size_t count = work.tensors.size();
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto rank = [&](std::size_t i) {
    return std::make_pair(work.tensors[i].averaged_only, work.codes[i]);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  std::vector<Portion> portions;
  tables.launches.clear();
  tables.with_gradients = 0;
  for (const std::size_t i : order) {
    if (tables.launches.empty() || tables.launches.back().code != work.codes[i]) {
      tables.launches.push_back({work.codes[i], portions.size(), 0});
    }
    const std::int64_t pieces = (work.tensors[i].count + chunk - 1) / chunk;
    for (std::int64_t p = 0; p < pieces; ++p) {
      portions.push_back({static_cast<std::int32_t>(i), static_cast<std::int32_t>(p)});
    }
    tables.launches.back().count = portions.size() - tables.launches.back().first;
    if (!work.tensors[i].averaged_only) tables.with_gradients = portions.size();
  }
  Room room;
  const std::size_t tensors_at = room.take<DeviceTensor>(count);
  const std::size_t layouts_at = room.take<std::int64_t>(work.layouts.size());
  const std::size_t portions_at = room.take<Portion>(portions.size());
  const std::size_t sent = room.size();
  const std::size_t prepared_at = room.take<Prepared>(count);
  const std::size_t partials_at = room.take<double>(most_partials);
  if (tables.memory.size() < room.size()) tables.memory = Memory(device_, room.size() + room.size() / 4);
  std::vector<char> image(sent);
  const auto put = [&](std::size_t place, const auto& list) {
    if (!list.empty()) std::memcpy(image.data() + place, list.data(), list.size() * sizeof(list[0]));
  };
  put(tensors_at, work.tensors);
  put(layouts_at, work.layouts);
  put(portions_at, portions);
  if (sent != 0) uploads_.copy(tables.memory.get(), image.data(), sent, stream);
  const auto place = [&](std::size_t offset) { return tables.memory.get() + offset; };
  tables.tensors = reinterpret_cast<DeviceTensor*>(place(tensors_at));
  tables.layouts = reinterpret_cast<std::int64_t*>(place(layouts_at));
  tables.portions = reinterpret_cast<Portion*>(place(portions_at));
  tables.prepared = reinterpret_cast<Prepared*>(place(prepared_at));
  tables.partials = reinterpret_cast<double*>(place(partials_at));
  tables.held = work;
}

// ---- launches

// How many partial results it leaves.
unsigned DeviceStep::launch_norm(StreamHandle stream, const Tables& tables) {
  const auto blocks = static_cast<unsigned>(std::min<std::size_t>(tables.with_gradients, most_partials));
  if (blocks == 0) return 0;
  const NormArgs args = {tables.tensors, tables.layouts, tables.portions,
                         static_cast<std::int32_t>(tables.with_gradients), tables.partials};
  kernel(norm_name()).launch(stream, blocks, block_threads, &args);
  return blocks;
}

void DeviceStep::launch_updates(StreamHandle stream, const Tables& tables, bool only_zero) {
  for (const Launch& launch : tables.launches) {
    if (launch.count == 0) continue;
    UpdateArgs args{};
    args.control = at<Control>(0);
    args.tensors = tables.tensors;
    args.prepared = tables.prepared;
    args.layouts = tables.layouts;
    args.portions = tables.portions + launch.first;
    args.only_zero = only_zero;
    kernel(update_name(launch.code))
        .launch(stream, static_cast<unsigned>(launch.count), block_threads, &args);
  }
}

void DeviceStep::join(StreamHandle stream, const DeviceWork& work, bool made, double* joined) {
  const Device::Current current(device_);
  Tables& tables = tables_of(stream, work);
  const unsigned partials = launch_norm(stream, tables);
  const JoinArgs args = {tables.partials, static_cast<std::int32_t>(partials), made ? 1.0 : 0.0, joined};
  kernel(join_name()).launch(stream, 1, control_threads, &args);
}

double DeviceStep::sum(StreamHandle stream, const DeviceWork& work) {
  const Device::Current current(device_);
  const Memory joined(device_, 2 * sizeof(double));
  join(stream, work, true, reinterpret_cast<double*>(joined.get()));
  double result = 0;
  copy_to_host(&result, joined.get(), sizeof result, stream);
  return result;
}

void DeviceStep::step(StreamHandle stream, const DeviceWork& work, const StepInputs& inputs) {
  const Device::Current current(device_);
  if (is_capturing(stream)) flush(stream);  // a replay must not send what was news when it was captured
  Tables& tables = tables_of(stream, work);
  send(stream);
  ControlArgs args = arguments(stream);
  args.phase = inputs.phase;
  args.tensors = tables.tensors;
  args.prepared = tables.prepared;
  args.tensor_count = static_cast<std::int32_t>(work.tensors.size());
  if (inputs.take_norm) {
    args.partials = tables.partials;
    args.partial_count = static_cast<std::int32_t>(launch_norm(stream, tables));
  }
  args.joined = inputs.joined;
  args.given_norm_at = inputs.given_norm_at;
  args.given_norm_format = inputs.given_norm_format;
  args.given_norm = inputs.given_norm;
  args.grad_scale = inputs.grad_scale;
  args.found_inf = inputs.found_inf;
  args.unscale = inputs.unscale;
  args.skip = inputs.skip;
  run_control(stream, args);
  if (inputs.phase != Phase::advance) launch_updates(stream, tables, false);
}

void DeviceStep::zero(StreamHandle stream, const DeviceWork& work) {
  const Device::Current current(device_);
  launch_updates(stream, tables_of(stream, work), true);
}

// ---- reading back

Report DeviceStep::report(StreamHandle stream) const {
  const Device::Current current(device_);
  const Relaxed relaxed;  // another stream may be in a capture
  const auto* shown = reinterpret_cast<const volatile Report*>(report_.get());
  if (captured_) {
    wait_for(stream);  // replays are not counted here
  } else {
    // Not for the stream: what was launched since would be waited for too.
    while (shown->sequence < ran_ && !is_idle(ran_on_)) std::this_thread::yield();
  }
  return {shown->position, shown->skipped, shown->grad_norm, shown->sequence};
}

std::vector<double> DeviceStep::values(StreamHandle stream) const {
  const Device::Current current(device_);
  std::vector<double> result(groups_ * hypers);
  copy_to_host(result.data(), state_.get() + values_at_, result.size() * sizeof(double), stream);
  return result;
}

std::vector<Slot> DeviceStep::slots(StreamHandle stream) const {
  const Device::Current current(device_);
  std::vector<Slot> result(slots_);
  copy_to_host(result.data(), state_.get() + slots_at_, result.size() * sizeof(Slot), stream);
  return result;
}

}  // namespace fastsched::cuda
