// The native half of an optimizer: reads groups, parameters, gradients and state from Python objects, refuses
// what it cannot trust, and hands plain memory to the fused step. Nothing is changed before everything was
// checked.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/devices.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/group.hpp"
#include "bindings/state.hpp"
#include "bindings/tensor.hpp"
#include "cpu/kernels.hpp"
#include "cpu/row.hpp"
#include "numbers.hpp"
#include "tensors.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

constexpr const char* running = "step: already running; one step at a time per optimizer";

// Python's cyclic garbage collector rests meanwhile. It would walk all objects again and again while
// thousands are made that stay (two thirds of a first step of 10,000 parameters), and run code of others
// between them.
class GarbagePause {
public:
  GarbagePause() : was_on_(PyGC_Disable() != 0) {}
  ~GarbagePause() {
    if (was_on_) PyGC_Enable();
  }
  GarbagePause(const GarbagePause&) = delete;
  GarbagePause& operator=(const GarbagePause&) = delete;

private:
  bool was_on_;
};

class Engine : public Zeroed {
public:
  Engine() = default;
  explicit Engine(const Options& options) : options_(options) {}

  // One update of every parameter that has a gradient. `owner` is the torch optimizer; `given_norm` a number
  // that stands for the gradients' norm, or None.
  void step(py::handle owner, const py::object& given_norm) {
    const Busy busy(busy_, running);
    const Release release{grads_, negated_};
    require_weights(owner);
    phase_ = cuda::Phase::whole;
    if (!given_norm.is_none() && options_.max_grad_norm == 0) {
      throw py::value_error(type_of(owner) +
                            ": step: grad_norm is what max_grad_norm compares with; set max_grad_norm too");
    }
    begin(owner);
    if (!agreed_) {
      owner.attr("_agree")();
      agreed_ = true;
      refresh_groups(owner);
    }
    for (std::size_t index = 0; index < params_.size(); ++index) find_grad(owner, index);
    if (update(owner, given_norm)) advance();
    zero_negated();
  }

  // One update of params_[index] alone, at the same position: an optimizer in the backward pass. True where
  // there was a gradient.
  bool step_one(py::handle owner, py::handle param, std::size_t index) {
    const Busy busy(busy_, running);
    const Release release{grads_, negated_};
    require_weights(owner);
    begin(owner);
    const auto is_it = [&](const Param& p) { return p.object.is(param); };
    if (index >= params_.size() || !is_it(params_[index])) {
      const auto found = std::find_if(params_.begin(), params_.end(), is_it);
      if (found == params_.end())
        throw py::value_error("step: a parameter with a hook is in no group any more");
      index = static_cast<std::size_t>(found - params_.begin());
    }
    find_grad(owner, index);
    phase_ = cuda::Phase::tensors;
    const bool made = update(owner, py::none());
    zero_negated();
    return made;
  }

  // Ends an update that step_one() made parameter by parameter.
  void finish(py::handle owner) {
    const Busy busy(busy_, running);
    refresh_groups(owner);
    advance_devices();
    advance();
  }

  // Binds whatever state[p] holds; returns the largest step found there. adopt: tensors that serve as they
  // are are not copied but used in place.
  std::int64_t bind(py::handle owner, bool adopt) {
    const Busy busy(busy_, running);
    refresh_groups(owner);
    adopting_ = adopt;
    try {
      refresh_state(owner);
    } catch (...) {
      adopting_ = false;
      throw;
    }
    adopting_ = false;
    return most_steps();
  }

  // The largest step that was found or made, whatever somebody has written into the tensors since.
  std::int64_t updates() {
    reconcile();
    return most_steps();
  }

  std::int64_t most_steps() const {
    std::int64_t most = 0;
    for (const Param& p : params_) {
      if (p.state.step != nullptr) most = std::max(most, p.state.steps);
    }
    return most;
  }

  std::int64_t position() {
    reconcile();
    return position_;
  }
  std::int64_t skipped() {
    reconcile();
    return skipped_;
  }
  std::optional<double> grad_norm() {
    reconcile();
    return grad_norm_;
  }

  // Before somebody reads the groups, in which nothing changes unless something is scheduled.
  void reconcile_groups() {
    const bool any = std::any_of(rows_, rows_ + hypers, [](const py::object& row) { return bool(row); });
    if (any) reconcile();
  }

  // Where a CUDA device may have come to something else than the host expected (an update skipped, a graph
  // replayed), asks it, and writes what it advanced into the groups.
  void reconcile() {
    if (!behind_) return;
    OnDevice& device = **devices_.begin();
    if (device.step.captured() && device.is_capturing()) return;  // nothing of it has happened yet
    const cuda::StreamHandle stream = device.stream();
    const bool replays = device.step.captured();
    cuda::Report report;
    {
      const py::gil_scoped_release unlocked;
      report = device.step.report(stream);
    }
    behind_ = replays;
    if (norm_taken_) grad_norm_ = report.grad_norm;
    skipped_ += report.skipped - device.skips_known;
    device.skips_known = report.skipped;
    if (report.position == position_ && !replays) return;
    position_ = report.position;
    take_from(device, stream);
  }

  // The weights are not the optimizer's own (averages stand in their place): no step until they are.
  bool lent() const { return lent_; }
  void set_lent(bool lent) { lent_ = lent; }

  // Tensors whose averages move with the weights': pairs of (tensor, its average). fresh: the averages hold
  // nothing yet, and start as the tensors.
  void average(const std::vector<std::pair<py::object, py::object>>& buffers, bool fresh) {
    buffers_ = buffers;
    fresh_buffers_ = fresh;
    devices_.tell_all();
  }

  // Takes the rows of what is scheduled and moves to update `position`: every group holds what that update
  // will use, but with `keep_written` not where somebody wrote another value. `bases` is a number per group
  // that weight decay is measured against (see DecayMode), or empty.
  void move_to(py::handle owner, std::int64_t position, const py::dict& rows, std::vector<double> bases,
               bool keep_written) {
    const Busy busy(busy_, running);
    if (position < 0 || position > largest_position)
      throw py::value_error("move_to: position must be in 0..2**53");
    reconcile();
    refresh_groups(owner);
    py::object taken[hypers], ema_row;
    for (const auto& [name, row] : rows) {
      const std::string key = py::str(name);
      if (!py::isinstance<RowObject>(row)) {
        throw py::type_error("move_to: rows must hold Rows, got " + type_of(row));
      }
      const bool is_ema = key == "ema_decay";
      const auto hyper = std::find(hyper_names, hyper_names + hypers, key) - hyper_names;
      if (!is_ema && (hyper == hypers || !has(options_.rule, static_cast<int>(hyper)))) {
        throw py::value_error("move_to: no hyperparameter is called " + key);
      }
      if (row.cast<const RowObject&>().groups() != (is_ema ? 1 : groups_.size())) {
        throw py::value_error("move_to: a row must have one entry per group");
      }
      (is_ema ? ema_row : taken[hyper]) = py::reinterpret_borrow<py::object>(row);
    }
    if (!bases.empty() && bases.size() != groups_.size()) {
      throw py::value_error("move_to: bases must have one entry per group");
    }
    // What was there before says nothing about a scheduler on this optimizer.
    if (!groups_.empty() && groups_[0].has_initial_lr) scheduler_known_ = true;
    std::move(taken, taken + hypers, rows_);
    ema_row_ = std::move(ema_row);
    bases_ = std::move(bases);
    position_ = position;
    write_scheduled(keep_written);
    move_devices(owner);
  }

private:
  class Layout;

  struct Release {
    std::vector<py::object>&a, &b;
    ~Release() { a.clear(), b.clear(); }
  };

  void require_weights(py::handle owner) const {
    if (!lent_) return;
    throw std::runtime_error(type_of(owner) +
                             ": step: inside ema() the weights are averages; leave it first");
  }

  void begin(py::handle owner) {
    if (devices_.captured()) reconcile();  // what graphs have advanced stands in no group yet
    refresh_groups(owner);
    const std::int64_t before = most_steps();
    found_state_ = false;
    refresh_state(owner);
    // ZeroRedundancyOptimizer loads by writing into `state`. A position that was the number of updates still
    // is.
    if (found_state_ && position_ == before && most_steps() > before) {
      position_ = most_steps();
      write_scheduled(true);
      devices_.tell_all();
      refresh_groups(owner);
    }
    const auto other_count = [&](std::size_t count) { return count != groups_.size(); };
    bool stale = !bases_.empty() && other_count(bases_.size());
    for (const py::object& row : rows_) stale |= row && other_count(row.cast<const RowObject&>().groups());
    if (stale) {
      throw py::value_error("step: param_groups has " + std::to_string(groups_.size()) +
                            " groups, the schedule another number; add groups with add_param_group()");
    }
    for (std::size_t g = 0; g < bases_.size(); ++g) groups_[g].base = bases_[g];
    todo_.clear();
    if (!scheduler_known_ && rows_[lr] && !groups_.empty() && groups_[0].has_initial_lr) {
      scheduler_known_ = true;
      owner.attr("_warn_of_scheduler")();
      refresh_groups(owner);
    }
  }

  // The update of what find_grad() found; true where one was made.
  bool update(py::handle owner, const py::object& given_norm) {
    const double ema_decay = options_.ema ? current_ema_decay(owner) : 1;
    if (!devices_.empty()) return update_on_devices(owner, given_norm, ema_decay);
    Scaling scaling = read_scaling(owner);
    std::optional<double> norm;
    if (!given_norm.is_none()) norm = read_norm(owner, given_norm);
    collect(owner);
    if (!devices_.empty()) return update_on_devices(owner, given_norm, ema_decay);
    bool made = !work_.empty();  // an update; on another rank, where parameters are sharded and ranks speak
    if (!norm && (options_.max_grad_norm > 0 || options_.amp)) {
      if (sharded_) {  // every rank takes part, also one without gradients
        norm = norm_over_ranks(owner, scaling.found_inf, made) * scaling.unscale;
        collect(owner);  // the collective has run code
      } else if (made) {
        norm = norm_of(options_.norm, power_sum({})) * scaling.unscale;
      }
    }
    if (!made) return false;
    compare(norm, scaling);
    return make(owner, scaling, ema_decay, {});
  }

  // What a norm, where the host knows one, says of the update.
  void compare(const std::optional<double>& norm, Scaling& scaling) {
    if (!norm) return;
    grad_norm_ = norm;
    if (!std::isfinite(*norm)) {
      scaling.found_inf = true;
    } else if (options_.max_grad_norm > 0) {
      scaling.clip = clip_factor(options_.max_grad_norm, *norm);
    }
  }

  // Makes the update of work_, or skips it; true where it counts.
  bool make(py::handle owner, const Scaling& scaling, double ema_decay, cuda::StepInputs inputs) {
    if (scaling.found_inf) {
      ++skipped_;
      if (options_.zero_grads) run_zeroing();
      return false;
    }
    if (work_.empty() && inputs.joined == nullptr) return true;
    const bool probe = !work_.empty() && is_checkpoint_probe();
    if (!probe) collect_buffers(owner, ema_decay);
    if (create_state(owner)) {  // making dicts may have run code: the addresses are read again
      collect(owner);
      if (!probe) collect_buffers(owner, ema_decay);
    }
    prepare(scaling, ema_decay);
    if (probe) {  // only what starts as the weights is filled
      for (TensorUpdate& update : work_) {
        update.rule = Rule::none;
        update.numbers.ema = 1;
        update.zero_grad = false;
      }
      inputs.phase = cuda::Phase::probe;
    }
    if (!devices_.empty()) describe({});
    run();
    if (!devices_.empty() && run_devices(inputs)) return false;  // captured: nothing has happened yet
    for (const std::size_t index : todo_) {
      State& state = params_[index].state;
      state.fresh_ema = state.fresh_master = false;
      if (probe) continue;
      state.fresh_momentum = state.fresh_momentum && group_of(index).value[momentum] == 0;
      ++state.steps;
      if (state.device == on_cpu) *state.step = static_cast<float>(state.steps);
    }
    if (probe) return false;
    fresh_buffers_ = false;
    if (options_.zero_grads && zero_late_) run_zeroing();
    return true;
  }

  void advance() {
    position_ = std::min(position_ + 1, largest_position);
    write_scheduled(false);
  }

  // ---- groups and parameters

  void refresh_groups(py::handle owner) {
    const py::object list = groups_of(owner);
    if (!PyList_Check(list.ptr())) throw py::type_error("param_groups: must be a list, got " + type_of(list));
    const auto count = static_cast<std::size_t>(PyList_GET_SIZE(list.ptr()));
    if (count != groups_.size()) {
      reconcile();
      devices_.tell_all();
    }
    groups_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::size_t>(PyList_GET_SIZE(list.ptr())) != count) {
        throw std::runtime_error("param_groups: changed while it was read");
      }
      groups_[i].refresh(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), i, options_.rule);
    }
    if (same_params()) return;
    reconcile();
    read_params();
    devices_.tell_all();
  }

  // Not by the attribute, a property that reconciles.
  static py::object groups_of(py::handle owner) {
    const py::object dict = checked(PyObject_GenericGetDict(owner.ptr(), nullptr));
    PyObject* held = item(dict.ptr(), names().param_groups);
    if (held != nullptr) return py::reinterpret_borrow<py::object>(held);
    return checked(PyObject_GetAttr(owner.ptr(), names().param_groups));
  }

  // The lists may have been edited in place (FSDP2's preparation does), so every parameter is compared.
  bool same_params() const {
    std::size_t at = 0;
    for (const Group& group : groups_) {
      PyObject* list = group.params.ptr();
      const auto count = static_cast<std::size_t>(PyList_GET_SIZE(list));
      if (at + count != group.end || group.end > params_.size()) return false;
      for (std::size_t i = 0; i < count; ++i, ++at) {
        if (PyList_GET_ITEM(list, static_cast<Py_ssize_t>(i)) != params_[at].object.ptr()) return false;
      }
    }
    return at == params_.size();
  }

  void read_params() {
    std::unordered_map<PyObject*, Param> known;  // those that stay keep their state
    for (Param& p : params_) {
      if (!p.repeated) known.emplace(p.object.ptr(), std::move(p));
    }
    params_.clear();
    group_of_.clear();
    sharded_ = false;
    state_map_ = Watched();
    std::unordered_set<PyObject*> seen;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      PyObject* list = groups_[g].params.ptr();
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        const py::object object = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list, i));
        const auto found = known.find(object.ptr());
        const bool is_first = seen.insert(object.ptr()).second;
        params_.push_back(is_first && found != known.end() ? std::move(found->second) : Param());
        params_.back().object = object;
        params_.back().repeated = !is_first;
        params_.back().sharded = is_sharded(object);
        sharded_ |= params_.back().sharded;
        group_of_.push_back(g);
      }
      groups_[g].end = params_.size();
    }
  }

  const Group& group_of(std::size_t param) const { return groups_[group_of_[param]]; }

  // ---- state

  // What the rule of a group needs beside parameter and gradient, but for the master, which depends on the
  // parameter.
  Mask needed(const Group& group) const {
    Mask mask = options_.ema ? bit(ema) : 0;
    if (options_.rule == Rule::adam) {
      mask |= bit(first) | bit(second) | (group.amsgrad ? bit(top) : 0);
    } else if (options_.rule == Rule::lion || group.value[momentum] != 0) {
      mask |= bit(first);
    }
    return mask;
  }

  Mask needed(const Group& group, Format of_param) const {
    const bool half = of_param == Format::bfloat16 || of_param == Format::float16;
    return needed(group) | (half && options_.master_weights ? bit(master) : 0);
  }

  void refresh_state(py::handle owner) {
    py::object map = checked(PyObject_GetAttr(owner.ptr(), names().state));
    if (!PyDict_Check(map.ptr())) throw py::type_error("state: must be a dict, got " + type_of(map));
    const bool same = state_map_.is(map.ptr()) && state_map_.unchanged();
    state_map_.forget();
    std::size_t index = 0;
    for (const Group& group : groups_) {
      for (; index < group.end; ++index) {
        Param& p = params_[index];
        if (!same && !p.repeated) find_state(p, map.ptr());
        if (p.dict.get() == nullptr) continue;
        if (p.state.adopted && !read_adopted(p.state)) let_go(p);
        if (!p.dict.unchanged()) {
          take_over(owner, p, group);
        } else if (p.state.device == on_cpu && static_cast<float>(p.state.steps) != *p.state.step) {
          read_steps(p);  // somebody wrote into the tensor
        }
      }
    }
    state_map_.mark(std::move(map));
  }

  static void find_state(Param& p, PyObject* map) {
    py::object dict = py::reinterpret_borrow<py::object>(item(map, p.object.ptr()));
    if (p.dict.is(dict.ptr())) return;
    p.dict = Watched();
    p.state = State();
    if (!dict) return;
    if (!PyDict_Check(dict.ptr())) throw py::type_error("state: must hold dicts, got " + type_of(dict));
    p.dict.watch(std::move(dict));
  }

  // Binds p to a state[p] that may be new. Tensors that are not the engine's own (loaded, copied, assigned)
  // are copied into memory that is, under the same keys, because memory of torch's can move or vanish between
  // two steps. What is missing there starts as at a first update.
  void take_over(py::handle owner, Param& p, const Group& group) {
    PyObject* dict = p.dict.get();
    if (PyDict_Size(dict) == 0) {
      p.state = State();
      return;
    }
    View view;
    if (!read_param(p, view)) refuse(owner, p, py::none());
    if (view.device != on_cpu) require_no_capture(owner, view.device);
    const Mask mask = needed(group, view.format);
    if (adopting_ && adopt(owner, p, mask, view)) {
      // nothing to copy
    } else if (!holds_own(p, mask)) {
      found_state_ = true;
      State fresh;
      if (!take_layout(fresh, view)) refuse(owner, p, py::none());
      take_formats(fresh, view.format, mask);
      allocate(owner, {&fresh});
      if (p.sharded) show_as_shards(owner, p, fresh);
      const auto missing = [&](PyObject* key) {
        PyObject* held = item(dict, key);
        return held == nullptr || held == Py_None;
      };
      fresh.fresh_momentum = options_.rule == Rule::sgd && missing(names().momentum_buffer);
      fresh.fresh_ema = missing(names().ema);
      fresh.fresh_master = missing(names().master_param);
      owner.attr("_fill_state")(p.object, py::handle(dict), as_dict(fresh));
      p.state = std::move(fresh);
    }
    read_steps(p);
    p.state.told = false;
    p.dict.mark();
  }

  // Takes the tensors in state[p] as they are; false, and nothing is changed, where one would have to be
  // copied.
  bool adopt(py::handle owner, Param& p, Mask mask, const View& of_param) const {
    State taken;
    if (!take_layout(taken, of_param)) return false;
    take_formats(taken, of_param.format, mask);
    PyObject* dict = p.dict.get();
    for (int o = first; o < operands; ++o) {
      if ((mask & bit(o)) == 0) continue;
      PyObject* held = item(dict, state_key(options_.rule, o));
      if (held == nullptr || !is_plain(held)) return false;
      taken.tensors[o] = py::reinterpret_borrow<py::object>(held);
    }
    PyObject* step = item(dict, names().step);
    const bool counted = step != nullptr;
    if (!counted && options_.rule == Rule::adam) return false;
    if (counted && !is_plain(step)) return false;
    taken.adopted = true;
    if (counted) {
      taken.step_tensor = py::reinterpret_borrow<py::object>(step);
      if (!read_adopted(taken)) return false;
    } else {  // torch's SGD counts no steps: this one tensor is the engine's own
      taken.memory = zeros_on(owner, taken.device, sizeof(float));
      taken.step_tensor =
          tensor_over(taken.memory, taken.memory.get(), taken.device, Format::float32, false, {}, {});
      if (!read_adopted(taken)) return false;
      if (PyDict_SetItem(dict, names().step, taken.step_tensor.ptr()) != 0) throw py::error_already_set();
    }
    p.state = std::move(taken);
    return true;
  }

  // Forgets what was bound; what state[p] holds is then looked at anew.
  static void let_go(Param& p) {
    p.state = State();
    p.dict.forget();
  }

  // Reads the addresses of adopted tensors; false where one is no longer what it was.
  static bool read_adopted(State& state) {
    View view;
    if (!read_view(state.step_tensor.ptr(), view) || view.format != Format::float32 || view.count != 1 ||
        view.device != state.device) {
      return false;
    }
    state.step = reinterpret_cast<float*>(view.at);
    for (int o = first; o < operands; ++o) {
      if (!state.tensors[o]) continue;
      if (!read_view(state.tensors[o].ptr(), view) || view.format != state.format[o] ||
          view.device != state.device || !same_shape(state, view) ||
          !same_strides(view.dims, view.shape, view.strides, state.strides.data())) {
        return false;
      }
      state.at[o] = view.at;
    }
    return true;
  }

  static void read_steps(Param& p) {
    float steps;
    if (p.state.device == on_cpu) {
      steps = *p.state.step;
    } else {
      const cuda::Device::Current current(cuda::Device::at(p.state.device));
      cuda::copy_to_host(&steps, p.state.step, sizeof steps, dlpack::current_stream(p.state.device));
    }
    if (!(steps >= 0 && steps < 9.2e18f))
      throw py::value_error("state: step must be a number of updates >= 0, got " + std::to_string(steps) +
                            "; write the number of updates made into state[p]['step']");
    p.state.steps = static_cast<std::int64_t>(steps);
  }

  bool holds_own(const Param& p, Mask mask) const {
    const State& state = p.state;
    if (state.step == nullptr || (mask & ~state.held) != 0) return false;
    PyObject* dict = p.dict.get();
    if (item(dict, names().step) != state.step_tensor.ptr()) return false;
    for (int o = first; o < operands; ++o) {
      if ((state.held & bit(o)) != 0 && item(dict, state_key(options_.rule, o)) != state.tensors[o].ptr()) {
        return false;
      }
    }
    return true;
  }

  void take_formats(State& state, Format of_param, Mask mask) const {
    const bool is_double = of_param == Format::float64;
    const Format average = options_.state_given ? options_.state
                           : is_double          ? Format::float64
                                                : Format::float32;
    state.format[first] = state.format[second] = state.format[top] = average;
    state.format[ema] = is_double ? Format::float64 : Format::float32;
    state.format[master] = Format::float32;
    state.held = mask;
  }

  // Memory for all of `states`, whose layouts and formats are known: one block per device, zeroed, shared by
  // torch tensors.
  void allocate(py::handle owner, std::vector<State*> states) const {
    const auto on = [](const State* state) { return state->device; };
    std::stable_sort(states.begin(), states.end(), [&](State* a, State* b) { return on(a) < on(b); });
    for (auto begin = states.begin(); begin != states.end();) {
      const int device = on(*begin);
      const auto end = std::find_if(begin, states.end(), [&](State* state) { return on(state) != device; });
      allocate(owner, device, {begin, end});
      begin = end;
    }
  }

  void allocate(py::handle owner, int device, const std::vector<State*>& states) const {
    // An empty tensor takes some too: torch.save refuses two of different dtypes at one address.
    const auto padded = [](std::int64_t bytes) {
      return (static_cast<std::size_t>(std::max<std::int64_t>(bytes, 1)) + alignment - 1) / alignment *
             alignment;
    };
    const std::size_t of_steps = padded(static_cast<std::int64_t>(states.size() * sizeof(float)));
    std::size_t total = of_steps;
    for (const State* state : states) {
      for (int o = first; o < operands; ++o) {
        if ((state->held & bit(o)) != 0) total += padded(state->count() * bytes_of(state->format[o]));
      }
    }
    const Memory memory = zeros_on(owner, device, total);
    float* step = reinterpret_cast<float*>(memory.get());
    char* next = memory.get() + of_steps;
    for (State* state : states) {
      state->memory = memory;
      state->step = step++;
      state->step_tensor = tensor_over(memory, state->step, device, Format::float32, false, {}, {});
      for (int o = first; o < operands; ++o) {
        if ((state->held & bit(o)) == 0) continue;
        state->at[o] = next;
        state->tensors[o] =
            tensor_over(memory, next, device, state->format[o], state->complex, state->shape, state->strides);
        next += padded(state->count() * bytes_of(state->format[o]));
      }
    }
  }

  // On a CUDA device the memory is torch's: its allocator counts it.
  static Memory zeros_on(py::handle owner, int device, std::size_t bytes) {
    if (device == on_cpu) return zeros(bytes);
    py::object tensor = owner.attr("_room")(device, bytes);
    dlpack::Tensor view;
    if (dlpack::exchange().tensor_from_object(tensor.ptr(), &view) != 0) throw py::error_already_set();
    return memory_of(std::move(tensor), view.address());
  }

  static bool read_param(const Param& p, View& view) {
    if (!p.sharded) return read_view(p.object.ptr(), view);
    return read_view(shard_of(p.object).ptr(), view);  // the parameter holds it
  }

  // torch.distributed.checkpoint saves and reshards what is a DTensor like its parameter.
  static void show_as_shards(py::handle owner, const Param& p, State& state) {
    for (py::object& tensor : state.tensors) {
      if (tensor) tensor = owner.attr("_as_shard")(p.object, tensor);
    }
  }

  py::dict as_dict(const State& state) const {
    py::dict dict;
    const auto put = [&](PyObject* key, const py::object& value) {
      if (PyDict_SetItem(dict.ptr(), key, value.ptr()) != 0) throw py::error_already_set();
    };
    put(names().step, state.step_tensor);
    for (int o = first; o < operands; ++o) {
      if (state.tensors[o]) put(state_key(options_.rule, o), state.tensors[o]);
    }
    return dict;
  }

  // State for the parameters that see their first gradient; false where there are none.
  bool create_state(py::handle owner) {
    std::vector<State*> states;
    for (std::size_t i = 0; i < todo_.size(); ++i) {
      State& state = params_[todo_[i]].state;
      if (state.step != nullptr) continue;
      take_formats(state, work_[i].format[param], needed(group_of(todo_[i]), work_[i].format[param]));
      state.fresh_momentum = state.fresh_ema = state.fresh_master = true;
      states.push_back(&state);
    }
    if (states.empty()) return false;
    const GarbagePause pause;
    allocate(owner, states);
    for (const std::size_t index : todo_) {
      Param& p = params_[index];
      if (p.dict.get() != nullptr && PyDict_Size(p.dict.get()) != 0) continue;
      if (p.sharded) show_as_shards(owner, p, p.state);
      py::dict dict = as_dict(p.state);
      if (PyDict_SetItem(state_map_.get(), p.object.ptr(), dict.ptr()) != 0) throw py::error_already_set();
      p.dict.mark(std::move(dict));
    }
    state_map_.mark();
    return true;
  }

  // ---- gradients

  // Gives `state` the shape of `view`, and its strides where they leave no gaps; false where elements
  // overlap.
  static bool take_layout(State& state, const View& view) {
    state.shape.assign(view.shape, view.shape + view.dims);
    state.strides.assign(view.strides, view.strides + view.dims);
    state.complex = view.complex;
    state.device = view.device;
    const Overlap kind = overlap(view.dims, view.shape, view.strides);
    if (kind == Overlap::gaps) {
      std::int64_t stride = 1;
      for (int d = view.dims - 1; d >= 0; --d) {
        state.strides[static_cast<std::size_t>(d)] = stride;
        stride *= view.shape[d];
      }
    }
    return kind != Overlap::overlapping;
  }

  static bool same_shape(const State& state, const View& view) {
    return view.complex == state.complex && static_cast<std::size_t>(view.dims) == state.shape.size() &&
           std::equal(state.shape.begin(), state.shape.end(), view.shape);
  }

  static py::object grad_of(py::handle param) {
    const PyGetSetDef* direct = names().grad_of;
    if (direct != nullptr && is_plain(param)) {
      return checked(direct->get(param.ptr(), direct->closure));
    }
    return checked(PyObject_GetAttr(param.ptr(), names().grad));
  }

  // The exchange hands out negated and conjugated views as if they were plain. Asking costs 75 ns, so a
  // gradient that was asked before is not asked again.
  static bool is_negative(Param& p, const py::object& grad, const View& view) {
    if (p.plain_grad == grad.ptr() && p.plain_data == view.at) return false;
    const py::object negative = checked(PyObject_CallOneArg(names().is_neg, grad.ptr()));
    if (negative.ptr() != Py_False || (view.complex && truth(grad, "is_conj"))) return true;
    p.plain_grad = grad.ptr();
    p.plain_data = view.at;
    return false;
  }

  static bool truth(const py::object& tensor, const char* method) {
    return tensor.attr(method)().cast<bool>();
  }

  // Puts a parameter that has a gradient on the list. Subclasses of Tensor may run code of their own here.
  void find_grad(py::handle owner, std::size_t index) {
    if (params_[index].repeated) return;
    py::object grad = grad_of(params_[index].object);
    if (grad.is_none()) return;
    if (params_[index].sharded && is_sharded(grad)) grad = placed(owner, params_[index], grad);
    if (!is_plain(grad) && (truth(grad, "is_neg") || truth(grad, "is_conj"))) grad = resolved(grad);
    todo_.push_back(index);
    grads_.push_back(std::move(grad));
  }

  // What this rank holds of a sharded gradient, placed as the parameter is: under sequence parallelism those
  // of norms are partial sums.
  py::object placed(py::handle owner, const Param& p, const py::object& grad) {
    const auto same = [&](const char* name) {
      const py::object theirs = grad.attr(name), ours = p.object.attr(name);
      return theirs.equal(ours);
    };
    if (!same("device_mesh")) refuse(owner, p, grad);
    if (same("placements")) return shard_of(grad);
    if (options_.zero_grads) negated_.push_back(grad);
    return shard_of(grad.attr("redistribute")(py::arg("placements") = p.object.attr("placements")));
  }

  py::object resolved(const py::object& grad) {
    if (options_.zero_grads) negated_.push_back(grad);
    return grad.attr("resolve_conj")().attr("resolve_neg")();
  }

  // Reads those parameters and gradients into work_, and refuses before anything is changed. From here to the
  // update no code but torch's own runs, so the addresses stay good.
  void collect(py::handle owner) {
    work_.resize(todo_.size());
    strided_.clear();
    bool stale = false;
    View to, from;
    for (std::size_t i = 0; i < todo_.size(); ++i) {
      Param& p = params_[todo_[i]];
      py::object& grad = grads_[i];
      if (!read_param(p, to) || !read_view(grad.ptr(), from)) refuse(owner, p, grad);
      if (is_plain(grad) && is_negative(p, grad, from)) {
        grad = resolved(grad);
        if (!read_view(grad.ptr(), from)) refuse(owner, p, grad);
      }
      if (to.device != from.device) refuse(owner, p, grad);
      if (to.device != on_cpu) devices_.at(to.device, options_);
      if (p.state.step != nullptr &&
          p.state.device != to.device) {  // the parameter's memory is elsewhere now
        let_go(p);
        stale = true;
        continue;
      }
      if (p.state.step == nullptr && !take_layout(p.state, to)) refuse(owner, p, grad);
      if (!same_shape(p.state, to) || !same_shape(p.state, from)) refuse(owner, p, grad);
      const bool other_dtype =
          p.state.step != nullptr && (needed(group_of(todo_[i]), to.format) & ~p.state.held) != 0;
      if (other_dtype) p.dict.forget();
      const bool moved_away = p.state.adopted && !read_adopted(p.state);
      if (moved_away) let_go(p);
      stale |= other_dtype || moved_away;
      if (moved_away) continue;
      TensorUpdate& update = work_[i];  // prepare() fills in the rest
      update.at[param] = to.at;
      update.format[param] = to.format;
      update.at[fastsched::grad] = from.at;
      update.format[fastsched::grad] = from.format;
      update.count = to.count;
      update.strided = nullptr;
      const std::int64_t* strides = p.state.strides.data();
      if (!same_strides(to.dims, to.shape, to.strides, strides) ||
          !same_strides(to.dims, to.shape, from.strides, strides)) {
        if (overlap(to.dims, to.shape, to.strides) == Overlap::overlapping) refuse(owner, p, grad);
        strided_.emplace_back(i, to, from.strides, strides);
      }
      if (options_.zero_grads) note_extent(i, from);
    }
    for (Layout& layout : strided_) work_[layout.work].strided = layout.strided();
    if (options_.zero_grads) find_shared_grads();
    if (stale) {
      refresh_state(owner);
      collect(owner);
    }
  }

  // Where gradients overlap (two parameters with one gradient, an expanded one), they are zeroed when all of
  // them have been used. Checked when an address is new.
  void note_extent(std::size_t i, const View& view) {
    const bool itself = overlap(view.dims, view.shape, view.strides) == Overlap::overlapping;
    const Extent extent{view.at, view.at + view.extent(), itself};
    if (i >= extents_.size()) extents_.resize(i + 1);
    if (extents_[i] == extent) return;
    extents_[i] = extent;
    extents_known_ = false;
  }

  void find_shared_grads() {
    if (extents_known_ && extents_.size() == todo_.size()) return;
    extents_.resize(todo_.size());
    std::vector<Extent> sorted = extents_;
    std::sort(sorted.begin(), sorted.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    zero_late_ = !sorted.empty() && sorted[0].overlaps_itself;
    for (std::size_t i = 1; i < sorted.size(); ++i) {
      zero_late_ |= sorted[i].overlaps_itself || sorted[i].begin < sorted[i - 1].end;
    }
    extents_known_ = true;
  }

  // `owner` names the parameter and the reason; it always raises.
  [[noreturn]] static void refuse(py::handle owner, const Param& p, const py::object& grad) {
    owner.attr("_refuse")(p.object, grad);
    throw std::runtime_error("step: a parameter or its gradient cannot be read");
  }

  // torch.distributed.checkpoint makes an optimizer create its state by one step with every lr 0 and zero
  // gradients, before it loads: that is no update.
  bool is_checkpoint_probe() const {
    for (const Param& p : params_) {
      if (p.state.step != nullptr) return false;
    }
    for (const Group& group : groups_) {
      const double rate = group.lr_tensor ? PyFloat_AsDouble(group.lr_tensor.ptr()) : group.value[lr];
      if (rate != 0 || (rows_[lr] && group.holds_written(lr))) return false;
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const bool is_strided = next < strided_.size() && strided_[next].work == i;
      next += is_strided ? 1 : 0;
      const bool elsewhere = params_[todo_[i]].state.device != on_cpu;
      if (elsewhere || is_strided || work_[i].format[grad] != Format::float32) {
        if (grads_[i].attr("any")().cast<bool>()) return false;
        continue;
      }
      const auto* g = reinterpret_cast<const float*>(work_[i].at[grad]);
      if (!std::all_of(g, g + work_[i].count, [](float x) { return x == 0; })) return false;
    }
    return true;
  }

  // ---- the update

  // What torch.amp.GradScaler left on the optimizer, or None.
  py::object left_by_scaler(py::handle owner, PyObject* name) const {
    return options_.amp ? py::object(py::getattr(owner, name, py::none())) : py::none();
  }

  static double number_of(const py::object& given) {
    const double number = PyFloat_AsDouble(given.ptr());
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    return number;
  }

  static double unscale_of(py::handle owner, const py::object& given) {
    const double scale = number_of(given);
    if (scale > 0 && std::isfinite(scale)) return 1 / scale;
    throw py::value_error(type_of(owner) + ": step: grad_scale must be > 0 and finite, got " +
                          std::to_string(scale) + "; let a GradScaler set it");
  }

  Scaling read_scaling(py::handle owner) const {
    Scaling scaling;
    const py::object scale = left_by_scaler(owner, names().grad_scale);
    if (!scale.is_none()) scaling.unscale = unscale_of(owner, scale);
    const py::object found = left_by_scaler(owner, names().found_inf);
    if (!found.is_none()) scaling.found_inf = number_of(found) != 0;
    return scaling;
  }

  static double read_norm(py::handle owner, const py::object& given) {
    const double norm = PyFloat_AsDouble(given.ptr());
    if (norm == -1 && PyErr_Occurred()) {
      clear_error();
      throw py::type_error(type_of(owner) + ": step: grad_norm must be a number, got " + type_of(given) +
                           "; pass what torch.nn.utils.get_total_norm returns");
    }
    if (norm < 0) {
      throw py::value_error(type_of(owner) + ": step: grad_norm must be >= 0, got " + std::to_string(norm) +
                            "; pass what torch.nn.utils.get_total_norm returns");
    }
    return norm;
  }

  // `shares`: what each gradient counts; empty: once.
  double power_sum(const std::vector<double>& shares) const {
    const std::vector<TensorUpdate>& work = on_this_machine();
    const int count = threads(work);
    const double* const weights = shares.empty() ? nullptr : shares.data();
    const py::gil_scoped_release unlocked;
    return instruction_set().step.power_sum(work.data(), static_cast<std::int64_t>(work.size()), weights,
                                            options_.norm, count);
  }

  std::vector<double> shares(py::handle owner) const {
    std::vector<double> result;
    for (const std::size_t index : todo_) {
      result.push_back(owner.attr("_share_of")(params_[index].object).cast<double>());
    }
    return result;
  }

  // `spoilt` makes it infinite on all ranks; `made` becomes true on all if it is on one.
  double norm_over_ranks(py::handle owner, bool spoilt, bool& made) {
    const double sum = spoilt             ? infinity()
                       : devices_.empty() ? power_sum(shares(owner))
                                          : sum_everywhere(shares(owner));
    const py::tuple joined = owner.attr("_over_ranks")(sum, made, options_.norm == NormKind::infinity);
    made = joined[1].cast<bool>();
    return norm_of(options_.norm, joined[0].cast<double>());
  }

  double current_ema_decay(py::handle owner) {
    double decay = 1;
    if (ema_row_) {
      const Row& row = ema_row_.cast<const RowObject&>();
      scratch_.resize(row.programs.size());
      row.at(static_cast<double>(position_), scratch_.data(), &decay);
    }
    if (!(decay >= 0 && decay <= 1)) {
      throw py::value_error(type_of(owner) + ": step: ema_decay must be in 0..1, got " +
                            std::to_string(decay) + " for update " + std::to_string(position_) +
                            "; clip its schedule");
    }
    return decay;
  }

  // Addresses of the state and the numbers of every tensor.
  void prepare(const Scaling& scaling, double ema_decay) {
    Numbers shared{};
    std::size_t group = groups_.size();  // none yet
    BiasCorrection bias{};               // of the tensor before: most share it
    double beta1 = -1, beta2 = -1;
    std::int64_t steps = -1;
    Mask mask = 0;
    bool rate_known = true;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const std::size_t index = todo_[i];
      const State& state = params_[index].state;
      TensorUpdate& update = work_[i];
      if (group_of_[index] != group) {
        group = group_of_[index];
        rate_known = !groups_[group].lr_tensor;
        shared = numbers_of(options_, groups_[group].value, groups_[group], scaling, ema_decay);
        mask = needed(groups_[group]);
      }
      const bool half = update.format[param] == Format::bfloat16 || update.format[param] == Format::float16;
      const Mask used = mask | (half && options_.master_weights ? bit(master) : 0);
      for (int o = first; o < operands; ++o) {
        update.at[o] = (used & bit(o)) != 0 ? state.at[o] : nullptr;
        update.format[o] = state.format[o];
      }
      update.rule = options_.rule;
      update.zero_grad = options_.zero_grads && !zero_late_;
      update.param_at_random = options_.stochastic_rounding && update.format[param] == Format::bfloat16 &&
                               !options_.master_weights;
      if (state.device != on_cpu) continue;  // the device knows its numbers
      if (!rate_known) {                     // of a tensor on a device, which the parameter has left
        groups_[group].value[lr] = number_of(groups_[group].lr_tensor);
        shared = numbers_of(options_, groups_[group].value, groups_[group], scaling, ema_decay);
        rate_known = true;
      }
      update.numbers = shared;
      if (options_.rule == Rule::adam) {
        if (steps != state.steps || beta1 != shared.beta1 || beta2 != shared.beta2) {
          steps = state.steps, beta1 = shared.beta1, beta2 = shared.beta2;
          bias = bias_corrections(shared, static_cast<double>(steps + 1));
        }
        correct(update.numbers, bias);
      }
      update.numbers.first_momentum = state.fresh_momentum;
      update.fresh_ema = state.fresh_ema;
      update.fresh_master = state.fresh_master;
      const bool state_at_random = state.format[first] == Format::bfloat16;
      if (state_at_random || update.param_at_random) {
        const Streams bits = streams_of(options_.seed, state.steps, static_cast<std::uint32_t>(index));
        update.state_bits = bits.state, update.param_bits = bits.param;
      }
    }
  }

  void collect_buffers(py::handle owner, double ema_decay) {
    buffer_work_.clear();
    buffer_strided_.clear();
    buffer_devices_.clear();
    View to, held;
    for (const auto& [tensor, average] : buffers_) {
      if (!read_view(tensor.ptr(), to) || !read_view(average.ptr(), held) || to.dims != held.dims ||
          to.device != held.device || !std::equal(to.shape, to.shape + to.dims, held.shape)) {
        throw py::value_error(type_of(owner) +
                              ": step: a tensor of ema_buffers has another shape or no memory now; "
                              "make the optimizer anew");
      }
      buffer_devices_.push_back(to.device);
      if (to.device != on_cpu) devices_.at(to.device, options_);
      buffer_work_.emplace_back();
      TensorUpdate& update = buffer_work_.back();
      update = TensorUpdate();
      update.rule = Rule::none;
      update.at[param] = to.at, update.format[param] = to.format;
      update.at[ema] = held.at, update.format[ema] = held.format;
      update.numbers.ema = ema_decay;
      update.fresh_ema = fresh_buffers_;
      update.count = to.count;
      if (!same_strides(to.dims, to.shape, to.strides, held.strides) ||
          overlap(to.dims, to.shape, to.strides) != Overlap::dense) {
        buffer_strided_.emplace_back(buffer_work_.size() - 1, to, to.strides, held.strides);
      }
    }
    for (Layout& layout : buffer_strided_) buffer_work_[layout.work].strided = layout.strided();
  }

  const std::vector<TensorUpdate>& on_this_machine() const { return devices_.empty() ? work_ : cpu_work_; }

  void run() const {
    const std::vector<TensorUpdate>& work = on_this_machine();
    const std::vector<TensorUpdate>& buffers = devices_.empty() ? buffer_work_ : cpu_buffers_;
    const int count = threads(work);
    const py::gil_scoped_release unlocked;
    const auto step = instruction_set().step.step;
    step(work.data(), static_cast<std::int64_t>(work.size()), count);
    if (!buffers.empty()) step(buffers.data(), static_cast<std::int64_t>(buffers.size()), 1);
  }

  // Zeroes the gradients in work_, and nothing else.
  void run_zeroing() {
    buffer_work_.clear();
    if (!devices_.empty()) {
      describe({});
      zero_on_devices();
    }
    for (TensorUpdate& update : devices_.empty() ? work_ : cpu_work_) {
      char* const address = update.at[grad];
      std::fill(update.at, update.at + operands, nullptr);
      update.at[grad] = address;
      update.rule = Rule::none;
      update.zero_grad = true;
    }
    cpu_buffers_.clear();
    run();
  }

  // Of a negated or conjugated gradient the work holds a copy; this is the gradient itself. It may run code
  // that raises: nothing of the step may come after it.
  void zero_negated() {
    for (const py::object& grad : negated_) grad.attr("zero_")();
    negated_.clear();
  }

  // As many threads as torch uses, if each gets enough elements to be worth its start: as many as torch gives
  // to one at least, and of small tensors more, for what describes them is longer than they are (400 x 256
  // elements take two threads as long as one).
  static int threads(const std::vector<TensorUpdate>& work) {
    constexpr std::int64_t small = 1 << 12, worth_a_thread = 1 << 15, worth_of_small = 1 << 17;
    std::int64_t total = 0;
    for (const TensorUpdate& update : work) total += update.count;
    const bool all_small = total < small * static_cast<std::int64_t>(work.size());
    const std::int64_t share = all_small ? worth_of_small : worth_a_thread;
    return static_cast<int>(std::clamp<std::int64_t>(total / share, 1, usable_threads()));
  }

  // ---- on devices

  // The device that everything lies on: it decides by itself what comes of an update. Null where the host has
  // to, since others must do the same.
  OnDevice* lone_device() const {
    if (devices_.size() != 1) return nullptr;
    OnDevice* const device = devices_.begin()->get();
    const auto elsewhere = [&](const State& state) { return state.device != device->index; };
    for (const Param& p : params_) {
      if (p.state.step != nullptr && elsewhere(p.state)) return nullptr;
    }
    for (const std::size_t index : todo_) {
      if (elsewhere(params_[index].state)) return nullptr;
    }
    View view;
    for (const auto& [tensor, _] : buffers_) {
      if (read_view(tensor.ptr(), view) && view.device != device->index) return nullptr;
    }
    return device;
  }

  // Forgets devices that everything has moved away from; true where there were any.
  bool drop_devices() {
    std::unordered_set<int> used;
    for (const Param& p : params_) {
      if (p.state.step != nullptr) used.insert(p.state.device);
    }
    for (const std::size_t index : todo_) used.insert(params_[index].state.device);
    View view;
    for (const auto& [tensor, _] : buffers_) {
      if (read_view(tensor.ptr(), view)) used.insert(view.device);
    }
    return devices_.keep(used);
  }

  // A number in the device's memory, which then need not be known here; null where it lies elsewhere.
  static const void* there(const OnDevice* device, const py::object& given, Format& format) {
    View view;
    if (device == nullptr || !is_plain(given) || !read_view(given.ptr(), view)) return nullptr;
    const bool serves = view.device == device->index && view.count == 1 &&
                        (view.format == Format::float32 || view.format == Format::float64);
    format = view.format;
    return serves ? view.at : nullptr;
  }

  static const float* float_there(const OnDevice* device, const py::object& given) {
    Format format;
    const void* const at = there(device, given, format);
    return format == Format::float32 ? static_cast<const float*>(at) : nullptr;
  }

  bool update_on_devices(py::handle owner, const py::object& given_norm, double ema_decay) {
    const py::object scale = left_by_scaler(owner, names().grad_scale);
    const py::object found = left_by_scaler(owner, names().found_inf);
    collect(owner);
    OnDevice* lone = lone_device();
    if (lone == nullptr && behind_) {  // until now one device knew best
      reconcile();
      refresh_groups(owner);
      ema_decay = options_.ema ? current_ema_decay(owner) : 1;
      collect(owner);
    }
    if (lone == nullptr && drop_devices()) lone = lone_device();
    require_capturable(owner, lone);
    cuda::StepInputs inputs;
    inputs.phase = phase_;
    Scaling scaling;
    std::optional<double> norm;
    bool ran = false;  // code of others, for a number that lies elsewhere
    if (!scale.is_none() && (inputs.grad_scale = float_there(lone, scale)) == nullptr) {
      scaling.unscale = unscale_of(owner, scale);
      ran = true;
    }
    if (!found.is_none() && (inputs.found_inf = float_there(lone, found)) == nullptr) {
      scaling.found_inf = number_of(found) != 0;
      ran = true;
    }
    if (!given_norm.is_none() &&
        (inputs.given_norm_at = there(lone, given_norm, inputs.given_norm_format)) == nullptr) {
      norm = read_norm(owner, given_norm);
      ran = true;
    }
    if (ran) collect(owner);
    bool made = !work_.empty();
    if (given_norm.is_none() && (options_.max_grad_norm > 0 || options_.amp)) {
      if (sharded_ && lone != nullptr) {
        inputs.joined = join_over_ranks(owner, *lone, scaling.found_inf, found, made);
        collect(owner);
      } else if (sharded_) {
        norm = norm_over_ranks(owner, scaling.found_inf, made) * scaling.unscale;
        collect(owner);
      } else if (made && lone != nullptr) {
        inputs.take_norm = true;
      } else if (made) {
        norm = norm_of(options_.norm, sum_everywhere({})) * scaling.unscale;
      }
    }
    if (!made && inputs.joined == nullptr) return false;
    compare(norm, scaling);
    if (inputs.joined != nullptr) scaling.found_inf = false;  // it is part of what was joined
    inputs.unscale = scaling.unscale;
    if (norm) inputs.given_norm = *norm;
    return make(owner, scaling, ema_decay, inputs);
  }

  void require_capturable(py::handle owner, const OnDevice* lone) const {
    if (!devices_.capturing()) return;
    if (lone == nullptr) {
      throw std::runtime_error(type_of(owner) +
                               ": step: parameters on several devices cannot be captured in a "
                               "CUDA graph; make one optimizer per device");
    }
    for (const std::size_t index : todo_) {
      if (params_[index].state.step == nullptr) refuse_first(owner);
    }
  }

  [[noreturn]] static void refuse_first(py::handle owner) {
    throw std::runtime_error(type_of(owner) +
                             ": step: a first step, which makes the state, cannot be captured "
                             "in a CUDA graph; make one step before the capture");
  }

  // State is made, and copied, once; a graph would do it again at every replay.
  void require_no_capture(py::handle owner, int device) {
    if (devices_.at(device, options_).is_capturing()) refuse_first(owner);
  }

  // Sorts work_ and buffer_work_ by where their tensors lie. `shares`: see power_sum().
  void describe(const std::vector<double>& shares) {
    for (const auto& device : devices_) device->work.clear();
    cpu_work_.clear();
    cpu_buffers_.clear();
    std::size_t next = 0;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const std::size_t index = todo_[i];
      const State& state = params_[index].state;
      const bool is_strided = next < strided_.size() && strided_[next].work == i;
      const Layout* layout = is_strided ? &strided_[next++] : nullptr;
      if (state.device == on_cpu) {
        cpu_work_.push_back(work_[i]);
        continue;
      }
      OnDevice& device = devices_.at(state.device, options_);
      cuda::DeviceTensor& tensor = add(device, work_[i], layout);
      tensor.step = state.step;
      tensor.share = shares.empty() ? 1 : shares[i];
      tensor.group = static_cast<std::int32_t>(group_of_[index]);
      tensor.slot = static_cast<std::int32_t>(index);
      tensor.place = static_cast<std::uint32_t>(index);
      tensor.zero_grad = work_[i].zero_grad;
      tensor.param_at_random = work_[i].param_at_random;
    }
    next = 0;
    for (std::size_t i = 0; i < buffer_work_.size(); ++i) {
      const bool is_strided = next < buffer_strided_.size() && buffer_strided_[next].work == i;
      const Layout* layout = is_strided ? &buffer_strided_[next++] : nullptr;
      if (buffer_devices_[i] == on_cpu) {
        cpu_buffers_.push_back(buffer_work_[i]);
        continue;
      }
      cuda::DeviceTensor& tensor = add(devices_.at(buffer_devices_[i], options_), buffer_work_[i], layout);
      tensor.slot = static_cast<std::int32_t>(params_.size() + i);
      tensor.averaged_only = true;
    }
  }

  // What the device reads of an update; the rest is zero.
  cuda::DeviceTensor& add(OnDevice& device, const TensorUpdate& update, const Layout* layout) const {
    cuda::DeviceWork& work = device.work;
    cuda::DeviceTensor tensor;
    std::memset(&tensor, 0, sizeof tensor);  // also between its members: tables are compared by their bytes
    std::copy(update.at, update.at + operands, tensor.at);
    std::copy(update.format, update.format + operands, tensor.format);
    tensor.count = update.count;
    tensor.strided = -1;
    if (layout != nullptr) {
      const std::vector<std::int64_t>& numbers = layout->numbers();
      tensor.strided = static_cast<std::int64_t>(work.layouts.size());
      work.layouts.push_back(static_cast<std::int64_t>(numbers.size() / 4));
      work.layouts.insert(work.layouts.end(), numbers.begin(), numbers.end());
    }
    const bool averages = update.at[first] != nullptr;
    const Format real = is_double(update) ? Format::float64 : Format::float32;
    const cuda::Kind kind = update.rule == Rule::adam
                                ? update.at[top] != nullptr ? cuda::Kind::amsgrad : cuda::Kind::adam
                            : update.rule == Rule::sgd  ? averages ? cuda::Kind::momentum : cuda::Kind::sgd
                            : update.rule == Rule::lion ? cuda::Kind::lion
                                                        : cuda::Kind::none;
    const bool stateless = kind == cuda::Kind::none || kind == cuda::Kind::sgd;
    work.codes.push_back(cuda::code_of(
        {kind, update.format[param], !stateless && update.format[first] != real, layout != nullptr}));
    work.tensors.push_back(tensor);
    return work.tensors.back();
  }

  // Sends a device what it does not know yet, with its next launch.
  void tell(OnDevice& device) {
    const std::size_t count = groups_.size();
    if (!device.step.fits(count, params_.size() + buffers_.size())) {
      device.step.reset(count, params_.size() + buffers_.size());
      device.skips_known = 0;
      device.tell_all = true;
    }
    if (device.tell_all) {
      const Row* rows[hypers + 1] = {};
      for (int h = 0; h < hypers; ++h) {
        if (rows_[h]) rows[h] = &rows_[h].cast<const RowObject&>();
      }
      if (ema_row_) rows[cuda::ema_row] = &ema_row_.cast<const RowObject&>();
      device.step.set_rows(rows);
      device.step.set_position(position_);
      device.told.assign(count * hypers, 0);
      for (std::size_t i = 0; i < buffers_.size(); ++i) {
        device.step.edit(cuda::SlotEdit{static_cast<std::int32_t>(params_.size() + i),
                                        fresh_buffers_ ? cuda::fresh_ema : std::uint32_t{0}, 0});
      }
    }
    constants_.assign(groups_.begin(), groups_.end());
    device.step.set_constants(constants_);
    tell_hypers(device);
    for (std::size_t i = 0; i < params_.size(); ++i) {
      State& state = params_[i].state;
      if (state.step == nullptr || state.device != device.index || (state.told && !device.tell_all)) continue;
      const std::uint32_t fresh = (state.fresh_momentum ? cuda::fresh_momentum : 0u) |
                                  (state.fresh_ema ? cuda::fresh_ema : 0u) |
                                  (state.fresh_master ? cuda::fresh_master : 0u);
      device.step.edit(cuda::SlotEdit{static_cast<std::int32_t>(i), fresh, state.steps});
      state.told = true;
    }
    device.tell_all = false;
  }

  void tell_hypers(OnDevice& device) {
    bool any_tensor = false;
    lr_tensors_.assign(groups_.size(), cuda::LrTensor{});
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const Group& group = groups_[g];
      View view;
      const bool beside =
          group.lr_tensor && read_view(group.lr_tensor.ptr(), view) && view.device == device.index;
      if (beside) lr_tensors_[g] = {view.at, view.format};
      any_tensor |= beside;
      for (int h = 0; h < hypers; ++h) {
        if (!has(options_.rule, h) || (h == lr && beside)) continue;
        double& told = device.told[g * hypers + static_cast<std::size_t>(h)];
        const double value = h == lr && group.lr_tensor ? number_of(group.lr_tensor) : group.value[h];
        const bool by_itself = is_scheduled(g, h) && group.holds_written(h);
        const bool known = by_itself || (!is_scheduled(g, h) && bits_of(told) == bits_of(value));
        if (known && !device.tell_all) continue;
        device.step.edit(cuda::HyperEdit{static_cast<std::int32_t>(g), h, value});
        told = value;
      }
    }
    if (!any_tensor) lr_tensors_.clear();
    device.step.set_lr_tensors(lr_tensors_);
  }

  bool is_scheduled(std::size_t group, int hyper) const {
    return rows_[hyper] && !std::isnan(rows_[hyper].cast<const RowObject&>().scale[group]);
  }

  // True where the launches were captured in a graph instead of made.
  bool run_devices(const cuda::StepInputs& inputs) {
    const bool capturing = devices_.capturing();
    try {
      launch(inputs);
    } catch (...) {
      forget_devices();
      throw;
    }
    if (capturing) {  // replays will use what was written by hand, and go on from there
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        for (int h = 0; h < hypers; ++h) {
          if (is_scheduled(g, h) && !groups_[g].holds_written(h)) groups_[g].passed_on(h);
        }
      }
    }
    const bool has_norm = inputs.take_norm || inputs.joined != nullptr || inputs.given_norm_at != nullptr;
    norm_taken_ |= has_norm || !std::isnan(inputs.given_norm);
    behind_ |= has_norm || inputs.found_inf != nullptr || capturing;
    return capturing;
  }

  void launch(const cuda::StepInputs& inputs) {
    for (const auto& device : devices_) {
      tell(*device);
      device->step.load(device->work, inputs.take_norm, false);
      device->on = device->stream();
    }
    const py::gil_scoped_release unlocked;
    for (const auto& device : devices_) {
      const bool idle = device->work.tensors.empty() && inputs.phase != cuda::Phase::whole;
      if (!idle) device->step.step(device->on, device->work, inputs);
    }
  }

  // After a failure: what was told may not have arrived.
  void forget_devices() {
    try {
      reconcile();
    } catch (const std::exception&) {  // the device tells nothing any more: what is known here stands
    }
    devices_.tell_all();
  }

  void advance_devices() {
    cuda::StepInputs inputs;
    inputs.phase = cuda::Phase::advance;
    for (const auto& device : devices_) {
      device->work.clear();
      tell(*device);
      device->step.load(device->work, false, false);
      device->step.step(device->stream(), device->work, inputs);
    }
  }

  void zero_on_devices() {
    for (const auto& device : devices_) {
      if (device->work.tensors.empty()) continue;
      tell(*device);
      device->step.load(device->work, false, false);
      device->step.zero(device->stream(), device->work);
    }
  }

  // What NormKind says of all gradients, wherever they lie. The host waits for it.
  double sum_everywhere(const std::vector<double>& shares) {
    buffer_work_.clear();
    describe(shares);
    std::vector<double> of_cpu;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      if (params_[todo_[i]].state.device == on_cpu) of_cpu.push_back(shares[i]);
    }
    double all = power_sum(of_cpu);
    for (const auto& device : devices_) {
      if (device->work.tensors.empty()) continue;
      tell(*device);
      device->step.load(device->work, true, true);
      const double one = device->step.sum(device->stream(), device->work);
      const bool larger = one > all || one != one;
      all = options_.norm == NormKind::infinity ? larger ? one : all : all + one;
    }
    return all;
  }

  // The address of what all ranks' gradients come to, on the device.
  const double* join_over_ranks(py::handle owner, OnDevice& device, bool spoilt, const py::object& found,
                                bool made) {
    if (!joined_) joined_ = owner.attr("_room")(device.index, 2, py::arg("numbers") = true);
    View view;
    if (!read_view(joined_.ptr(), view)) throw std::runtime_error("step: torch gave no memory");
    buffer_work_.clear();
    describe(shares(owner));
    tell(device);
    device.step.load(device.work, true, true);
    auto* const at = reinterpret_cast<double*>(view.at);
    device.step.join(device.stream(), device.work, made, at);
    owner.attr("_join_over_ranks")(joined_, spoilt ? py::cast(1.0) : found,
                                   options_.norm == NormKind::infinity);
    return at;
  }

  // What a device has advanced otherwise than the host expected.
  void take_from(OnDevice& device, cuda::StreamHandle stream) {
    const std::vector<cuda::Slot> slots = device.step.slots(stream);
    for (std::size_t i = 0; i < params_.size() && i < slots.size(); ++i) {
      State& state = params_[i].state;
      if (state.step == nullptr || !state.told || state.device != device.index) continue;
      state.steps = std::max<std::int64_t>(slots[i].steps, 0);
      state.fresh_momentum = (slots[i].fresh & cuda::fresh_momentum) != 0;
      state.fresh_ema = (slots[i].fresh & cuda::fresh_ema) != 0;
      state.fresh_master = (slots[i].fresh & cuda::fresh_master) != 0;
    }
    if (!buffers_.empty() && params_.size() < slots.size()) {
      fresh_buffers_ = (slots[params_.size()].fresh & cuda::fresh_ema) != 0;
    }
    const std::vector<double> values = device.step.values(stream);
    for (std::size_t g = 0; g < groups_.size() && (g + 1) * hypers <= values.size(); ++g) {
      Group& group = groups_[g];
      const auto value = [&](int h) {  // NaN: nothing to write
        return is_scheduled(g, h) && group.holds_written(h) ? values[g * hypers + static_cast<std::size_t>(h)]
                                                            : std::numeric_limits<double>::quiet_NaN();
      };
      for (const int h : {lr, weight_decay, momentum}) {
        if (h == lr && group.lr_tensor) continue;
        if (const double given = value(h); !std::isnan(given)) group.write(h, given);
      }
      const double betas[2] = {value(beta1), value(beta2)};
      if (!std::isnan(betas[0]) || !std::isnan(betas[1])) group.write_betas(betas[0], betas[1]);
    }
  }

  // After move_to: lrs that lie in tensors are written now, and graphs, which may be replayed before the next
  // step, learn of it now.
  void move_devices(py::handle owner) {
    devices_.tell_all();
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].lr_tensor && is_scheduled(g, lr)) groups_[g].lr_tensor.attr("fill_")(values_[lr][g]);
    }
    if (!devices_.captured()) return;
    refresh_groups(owner);
    for (const auto& device : devices_) {
      tell(*device);
      device->step.flush(device->stream());
    }
  }

  // Leaves in every group what the next update will use.
  void write_scheduled(bool keep_written) {
    bool any = false;
    for (int h = 0; h < hypers; ++h) {
      if (!rows_[h]) continue;
      const Row& row = rows_[h].cast<const RowObject&>();
      values_[h].resize(groups_.size());
      scratch_.resize(row.programs.size());
      row.at(static_cast<double>(position_), scratch_.data(), values_[h].data());
      any = true;
    }
    if (!any) return;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      Group& group = groups_[i];
      const auto scheduled = [&](int h) {  // NaN: nothing to write
        const bool kept =
            (keep_written && group.was_written(h) && !group.holds_written(h)) || (h == lr && group.lr_tensor);
        return rows_[h] && !kept ? values_[h][i] : std::numeric_limits<double>::quiet_NaN();
      };
      for (const int h : {lr, weight_decay, momentum}) {
        if (const double value = scheduled(h); !std::isnan(value)) group.write(h, value);
      }
      const double betas[2] = {scheduled(beta1), scheduled(beta2)};
      if (!std::isnan(betas[0]) || !std::isnan(betas[1])) group.write_betas(betas[0], betas[1]);
    }
  }

  // Where one update's operands differ in layout: its place in work_, then shape and strides of parameter,
  // gradient and everything else, without dimensions of length 1.
  class Layout {
  public:
    Layout(std::size_t place, const View& to, const std::int64_t* of_grad, const std::int64_t* of_state)
        : work(place) {
      std::vector<int> order;
      for (int d = 0; d < to.dims; ++d) {
        if (to.shape[d] != 1) order.push_back(d);
      }
      // In the order of the state's memory: an element's place is then the same as in a linear sweep, and
      // with it how it is rounded at random.
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return of_state[a] > of_state[b]; });
      for (const std::int64_t* row : {to.shape, to.strides, of_grad, of_state}) {
        for (const int d : order) numbers_.push_back(row[d]);
      }
    }

    const Strided* strided() {
      const std::size_t dims = numbers_.size() / 4;
      const std::int64_t* const row = numbers_.data();
      strided_ = {static_cast<int>(dims), row, {row + dims, row + 2 * dims}};
      for (int o = first; o < operands; ++o) strided_.strides[o] = row + 3 * dims;
      return &strided_;
    }

    // Lengths, then strides of parameter, gradient and everything else.
    const std::vector<std::int64_t>& numbers() const { return numbers_; }

    std::size_t work;

  private:
    std::vector<std::int64_t> numbers_;
    Strided strided_{};
  };

  // The memory of a gradient.
  struct Extent {
    char *begin, *end;
    bool overlaps_itself;
    bool operator==(const Extent& other) const {
      return begin == other.begin && end == other.end && overlaps_itself == other.overlaps_itself;
    }
  };

  Options options_;
  bool busy_ = false, lent_ = false, fresh_buffers_ = false, adopting_ = false, scheduler_known_ = false,
       found_state_ = false, agreed_ = false;
  std::int64_t position_ = 0;  // the update about to be made
  std::int64_t skipped_ = 0;
  std::optional<double> grad_norm_;
  py::object rows_[hypers], ema_row_;  // Rows; null: what the group holds stands
  std::vector<double> bases_;
  std::vector<std::pair<py::object, py::object>> buffers_;
  Watched state_map_;  // the optimizer's `state`
  std::vector<Group> groups_;
  std::vector<Param> params_;
  std::vector<std::size_t> group_of_;  // per parameter
  bool sharded_ = false;               // any of them

  Devices devices_;
  cuda::Phase phase_ = cuda::Phase::whole;
  bool behind_ = false;      // the one device may have come to something else than the host expects
  bool norm_taken_ = false;  // by that device
  py::object joined_;        // a tensor there, which ranks join their gradients in

  // One step's work, kept to be reused: entry i of todo_ and grads_ belongs to work_[i].
  std::vector<TensorUpdate> work_, buffer_work_;
  std::vector<TensorUpdate> cpu_work_, cpu_buffers_;  // of these, where some lie on devices
  std::vector<int> buffer_devices_;
  std::vector<std::size_t> todo_;
  std::vector<py::object> grads_, negated_;
  std::vector<Layout> strided_, buffer_strided_;
  std::vector<Extent> extents_;  // of the gradients at the step before
  bool extents_known_ = false, zero_late_ = false;
  std::vector<double> values_[hypers], scratch_;
  std::vector<Constants> constants_;
  std::vector<cuda::LrTensor> lr_tensors_;
};

template <class Value>
Value chosen(const char* name, const std::string& given,
             std::initializer_list<std::pair<const char*, Value>> known) {
  for (const auto& [text, value] : known) {
    if (given == text) return value;
  }
  throw py::value_error("Engine: " + std::string(name) + " is unknown: " + given);
}

Engine* make_engine(const std::string& rule, const std::string& decay, double norm_type, double max_grad_norm,
                    double max_grad_value, bool zero_grads, bool amp, bool ema, bool master_weights,
                    bool stochastic_rounding, const std::string& state, std::uint64_t seed) {
  Options o;
  o.rule = chosen<Rule>("rule", rule, {{"adam", Rule::adam}, {"sgd", Rule::sgd}, {"lion", Rule::lion}});
  o.decay = chosen<DecayMode>("weight_decay_mode", decay,
                              {{"", DecayMode::own},
                               {"l2", DecayMode::l2},
                               {"decoupled", DecayMode::decoupled},
                               {"composer", DecayMode::composer},
                               {"timm", DecayMode::timm},
                               {"cautious", DecayMode::cautious}});
  o.norm = norm_type == 1 ? NormKind::one : norm_type == 2 ? NormKind::two : NormKind::infinity;
  o.max_grad_norm = max_grad_norm, o.max_grad_value = max_grad_value;
  o.zero_grads = zero_grads, o.amp = amp, o.ema = ema;
  o.master_weights = master_weights, o.stochastic_rounding = stochastic_rounding;
  o.state_given = !state.empty();
  o.state = chosen<Format>(
      "state", state, {{"", Format::float32}, {"float32", Format::float32}, {"bfloat16", Format::bfloat16}});
  o.seed = seed;
  return new Engine(o);
}

}  // namespace

// Why the step cannot use a tensor; empty where it can.
std::string unreadable(const py::object& given) {
  const py::object tensor = is_sharded(given) ? shard_of(given) : given;
  dlpack::Tensor view;
  if (dlpack::exchange().tensor_from_object(tensor.ptr(), &view) != 0) {
    PyErr_Clear();
    return "must be a torch tensor with memory of its own, got a " + type_of(tensor);
  }
  std::int64_t count = 0;
  if (!find_count(view, count)) return "must have a layout that torch's tensors can have; clone it first";
  if (view.data == nullptr && count != 0) {
    return "must have memory of its own, got a " + type_of(tensor) + " without; use its local or real tensor";
  }
  if (overlap(view.ndim, view.shape, view.strides) == Overlap::overlapping) {
    return "must hold every element once, but its elements overlap (an expanded tensor?); clone it first";
  }
  Format format;
  bool complex = false;
  int device = on_cpu;
  if (!find_format(view.dtype, format, complex) || !find_device(view.device, device)) {
    return "must be a floating or complex tensor in the memory of the CPU or of a CUDA device; convert it "
           "first";
  }
  return "";
}

namespace {

int device_of(const py::object& given) {
  View view;
  return read_view((is_sharded(given) ? shard_of(given) : given).ptr(), view) ? view.device : on_cpu;
}

void require_device(int index) {
  const auto [major, minor] = cuda::Device::at(index).capability();
  py::module_::import("fastsched._kernels").attr("require")(py::make_tuple(major, minor));
}

void use_exchange(const py::object& capsule) {
  const dlpack::Exchange* const table = capsule.is_none() ? nullptr : dlpack::exchange_of(capsule);
  if (!capsule.is_none() && table == nullptr) {
    throw py::type_error("use_exchange: must be a capsule of a DLPack exchange table or None, got " +
                         type_of(capsule));
  }
  dlpack::exchange_in_use() = table;
}

}  // namespace

void bind_optimizer(py::module_& m) {
  m.def("unreadable", &unreadable, py::arg("tensor"));
  m.def("device_of", &device_of, py::arg("tensor"),
        "The index of the CUDA device that a tensor lies on; -1 for the CPU and what cannot be read.");
  m.def("require_device", &require_device, py::arg("index"),
        "Raises where kernels cannot be made for a CUDA device, or run there.");
  m.def("use_exchange", &use_exchange, py::arg("capsule"),
        "Reads tensors through another DLPack exchange table, for tests; None: through torch's again.");
  py::class_<Engine>(m, "Engine", "The native half of one optimizer.")
      .def(py::init(&make_engine), py::kw_only(), py::arg("rule"), py::arg("weight_decay_mode") = "",
           py::arg("norm_type") = 2.0, py::arg("max_grad_norm") = 0.0, py::arg("max_grad_value") = 0.0,
           py::arg("zero_grads") = false, py::arg("amp") = false, py::arg("ema") = false,
           py::arg("master_weights") = false, py::arg("stochastic_rounding") = false, py::arg("state") = "",
           py::arg("seed") = 0)
      .def_property_readonly("position", &Engine::position)
      .def_property_readonly("updates", &Engine::updates)
      .def_property_readonly("skipped", &Engine::skipped)
      .def_property_readonly("grad_norm", &Engine::grad_norm)
      .def("reconcile_groups", &Engine::reconcile_groups)
      .def_property("lent", &Engine::lent, &Engine::set_lent)
      .def("step", &Engine::step, py::arg("owner"), py::arg("grad_norm") = py::none())
      .def("step_one", &Engine::step_one, py::arg("owner"), py::arg("param"), py::arg("index"))
      .def("finish", &Engine::finish, py::arg("owner"))
      .def("bind", &Engine::bind, py::arg("owner"), py::arg("adopt") = false)
      .def("average", &Engine::average, py::arg("buffers"), py::arg("fresh"))
      .def("move_to", &Engine::move_to, py::arg("owner"), py::arg("position"), py::arg("rows") = py::dict(),
           py::arg("bases") = std::vector<double>(), py::arg("keep_written") = false);
}

}  // namespace fastsched
