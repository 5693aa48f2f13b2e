// The native half of an optimizer: reads groups, parameters, gradients and state from Python objects, refuses
// what it cannot trust, and hands plain memory to the fused step. Nothing is changed before everything was
// checked.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/group.hpp"
#include "bindings/tensor.hpp"
#include "cpu/kernels.hpp"
#include "cpu/row.hpp"
#include "noise.hpp"
#include "tensors.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

// What weight decay multiplies; see optim.py.
enum class DecayMode { own, l2, decoupled, composer, timm, cautious };

// What an optimizer was made with, beside its groups.
struct Options {
  Rule rule = Rule::adam;
  DecayMode decay = DecayMode::own;
  NormKind norm = NormKind::two;
  double max_grad_norm = 0;   // 0: no clipping
  double max_grad_value = 0;  // 0: no clipping
  bool zero_grads = false, amp = false, ema = false, master_weights = false, stochastic_rounding = false;
  bool state_given = false;  // else the averages are float32, or float64 for float64 parameters
  Format state = Format::float32;
  std::uint64_t seed = 0;
};

using Mask = unsigned;  // of operands
constexpr Mask bit(int operand) { return Mask{1} << operand; }

PyObject* state_key(Rule rule, int operand) {
  switch (operand) {
    case first:
      return rule == Rule::sgd ? names().momentum_buffer : names().exp_avg;
    case second:
      return names().exp_avg_sq;
    case top:
      return names().max_exp_avg_sq;
    case ema:
      return names().ema;
    default:
      return names().master_param;
  }
}

// The tensors of state[p] that this engine owns, or has adopted: then they are torch's, whose memory may move
// between two steps, and their addresses are read again at each.
struct State {
  bool adopted = false;
  Memory memory;
  py::object step_tensor, tensors[operands];
  float* step = nullptr;  // null: not bound. float32, as torch has it
  char* at[operands] = {};
  Format format[operands] = {};
  Mask held = 0;
  std::int64_t steps = 0;  // the same, exact past 2**24
  bool complex = false;
  std::vector<std::int64_t> shape, strides;                              // strides are dense
  bool fresh_momentum = false, fresh_ema = false, fresh_master = false;  // hold nothing yet

  std::int64_t count() const {
    std::int64_t elements = 1;
    for (const std::int64_t length : shape) elements *= length;
    return elements;
  }
};

struct Param {
  py::object object;
  Watched dict;  // state[p]
  State state;
  bool sharded = false;            // a DTensor: what this rank holds of it is updated
  bool repeated = false;           // stands earlier too; torch has warned of it, and it is updated once
  PyObject* plain_grad = nullptr;  // the gradient last seen without torch's negative bit; only compared
  void* plain_data = nullptr;
};

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
    return update(owner, py::none());
  }

  // Ends an update that step_one() made parameter by parameter.
  void finish(py::handle owner) {
    const Busy busy(busy_, running);
    refresh_groups(owner);
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
    return updates();
  }

  // The largest step that was found or made, whatever somebody has written into the tensors since.
  std::int64_t updates() const {
    std::int64_t most = 0;
    for (const Param& p : params_) {
      if (p.state.step != nullptr) most = std::max(most, p.state.steps);
    }
    return most;
  }

  std::int64_t position() const { return position_; }
  std::int64_t skipped() const { return skipped_; }
  std::optional<double> grad_norm() const { return grad_norm_; }

  // The weights are not the optimizer's own (averages stand in their place): no step until they are.
  bool lent() const { return lent_; }
  void set_lent(bool lent) { lent_ = lent; }

  // Tensors whose averages move with the weights': pairs of (tensor, its average). fresh: the averages hold
  // nothing yet, and start as the tensors.
  void average(const std::vector<std::pair<py::object, py::object>>& buffers, bool fresh) {
    buffers_ = buffers;
    fresh_buffers_ = fresh;
  }

  // Takes the rows of what is scheduled and moves to update `position`: every group holds what that update
  // will use, but with `keep_written` not where somebody wrote another value. `bases` is a number per group
  // that weight decay is measured against (see DecayMode), or empty.
  void move_to(py::handle owner, std::int64_t position, const py::dict& rows, std::vector<double> bases,
               bool keep_written) {
    const Busy busy(busy_, running);
    if (position < 0 || position > (std::int64_t{1} << 53))
      throw py::value_error("move_to: position must be in 0..2**53");
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
  }

private:
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
    refresh_groups(owner);
    const std::int64_t before = updates();
    found_state_ = false;
    refresh_state(owner);
    // ZeroRedundancyOptimizer loads by writing into `state`. A position that was the number of updates still
    // is.
    if (found_state_ && position_ == before && updates() > before) {
      position_ = updates();
      write_scheduled(true);
      refresh_groups(owner);
    }
    const auto other_count = [&](std::size_t count) { return count != groups_.size(); };
    bool stale = !bases_.empty() && other_count(bases_.size());
    for (const py::object& row : rows_) stale |= row && other_count(row.cast<const RowObject&>().groups());
    if (stale) {
      throw py::value_error("step: param_groups has " + std::to_string(groups_.size()) +
                            " groups, the schedule another number; add groups with add_param_group()");
    }
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
    Scaling scaling = read_scaling(owner);
    std::optional<double> norm;
    if (!given_norm.is_none()) norm = read_norm(owner, given_norm);
    collect(owner);
    bool made = !work_.empty();  // an update; on another rank, where parameters are sharded and ranks speak
    if (!norm && (options_.max_grad_norm > 0 || options_.amp)) {
      if (sharded_) {  // every rank takes part, also one without gradients
        norm = norm_over_ranks(owner, scaling.found_inf, made) * scaling.unscale;
        collect(owner);  // the collective has run code
      } else if (made) {
        norm = finished(power_sum(nullptr)) * scaling.unscale;
      }
    }
    if (!made) return false;
    if (norm) {
      grad_norm_ = norm;
      if (!std::isfinite(*norm)) {
        scaling.found_inf = true;
      } else if (options_.max_grad_norm > 0) {
        scaling.clip = std::min(1.0, options_.max_grad_norm / (*norm + 1e-6));
      }
    }
    if (scaling.found_inf) {
      ++skipped_;
      if (options_.zero_grads) run_zeroing();
      return false;
    }
    if (work_.empty()) return true;
    const bool probe = is_checkpoint_probe();
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
    }
    run();
    for (const std::size_t index : todo_) {
      State& state = params_[index].state;
      state.fresh_ema = state.fresh_master = false;
      if (probe) continue;
      state.fresh_momentum = state.fresh_momentum && group_of(index).value[momentum] == 0;
      *state.step = static_cast<float>(++state.steps);
    }
    if (probe) return false;
    fresh_buffers_ = false;
    if (options_.zero_grads) {
      zero_late_ ? run_zeroing() : zero_negated();
    }
    return true;
  }

  void advance() {
    ++position_;
    write_scheduled(false);
  }

  // ---- groups and parameters

  void refresh_groups(py::handle owner) {
    py::object list = checked(PyObject_GetAttr(owner.ptr(), names().param_groups));
    if (!PyList_Check(list.ptr())) throw py::type_error("param_groups: must be a list, got " + type_of(list));
    const auto count = static_cast<std::size_t>(PyList_GET_SIZE(list.ptr()));
    groups_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::size_t>(PyList_GET_SIZE(list.ptr())) != count) {
        throw std::runtime_error("param_groups: changed while it was read");
      }
      groups_[i].refresh(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), i, options_.rule);
    }
    if (!same_params()) read_params();
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
      const Mask mask = needed(group);
      for (; index < group.end; ++index) {
        Param& p = params_[index];
        if (!same && !p.repeated) find_state(p, map.ptr());
        if (p.dict.get() == nullptr) continue;
        if (p.state.adopted && !read_adopted(p.state)) let_go(p);
        if (!p.dict.unchanged() || (mask & ~p.state.held) != 0) {
          take_over(owner, p, group);
        } else if (static_cast<float>(p.state.steps) != *p.state.step) {
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
    const Mask mask = needed(group, view.format);
    if (adopting_ && adopt(p, mask, view)) {
      // nothing to copy
    } else if (!holds_own(p, mask)) {
      found_state_ = true;
      State fresh;
      if (!take_layout(fresh, view)) refuse(owner, p, py::none());
      take_formats(fresh, view.format, mask);
      allocate({&fresh});
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
    p.dict.mark();
  }

  // Takes the tensors in state[p] as they are; false, and nothing is changed, where one would have to be
  // copied.
  bool adopt(Param& p, Mask mask, const View& of_param) const {
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
      taken.memory = zeros(sizeof(float));
      taken.step_tensor = tensor_over(taken.memory, taken.memory.get(), Format::float32, false, {}, {});
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
    if (!read_view(state.step_tensor.ptr(), view) || view.format != Format::float32 || view.count != 1)
      return false;
    state.step = reinterpret_cast<float*>(view.at);
    for (int o = first; o < operands; ++o) {
      if (!state.tensors[o]) continue;
      if (!read_view(state.tensors[o].ptr(), view) || view.format != state.format[o] ||
          !same_shape(state, view) ||
          !same_strides(view.dims, view.shape, view.strides, state.strides.data())) {
        return false;
      }
      state.at[o] = view.at;
    }
    return true;
  }

  static void read_steps(Param& p) {
    const float steps = *p.state.step;
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

  // Memory for all of `states`, whose layouts and formats are known: one block, zeroed, shared by torch
  // tensors.
  void allocate(const std::vector<State*>& states) const {
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
    const Memory memory = zeros(total);
    float* step = reinterpret_cast<float*>(memory.get());
    char* next = memory.get() + of_steps;
    for (State* state : states) {
      state->memory = memory;
      state->step = step++;
      state->step_tensor = tensor_over(memory, state->step, Format::float32, false, {}, {});
      for (int o = first; o < operands; ++o) {
        if ((state->held & bit(o)) == 0) continue;
        state->at[o] = next;
        state->tensors[o] =
            tensor_over(memory, next, state->format[o], state->complex, state->shape, state->strides);
        next += padded(state->count() * bytes_of(state->format[o]));
      }
    }
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
    allocate(states);
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
    for (const Group& group : groups_) {
      if (group.value[lr] != 0 || (rows_[lr] && group.holds_written(lr))) return false;
    }
    for (const Param& p : params_) {
      if (p.state.step != nullptr) return false;
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const bool is_strided = next < strided_.size() && strided_[next].work == i;
      next += is_strided ? 1 : 0;
      if (is_strided || work_[i].format[grad] != Format::float32) {
        if (grads_[i].attr("any")().cast<bool>()) return false;
        continue;
      }
      const auto* g = reinterpret_cast<const float*>(work_[i].at[grad]);
      if (!std::all_of(g, g + work_[i].count, [](float x) { return x == 0; })) return false;
    }
    return true;
  }

  // ---- the update

  // What multiplies every gradient, beside its sign.
  struct Scaling {
    double unscale = 1, clip = 1;
    bool found_inf = false;
  };

  // What torch.amp.GradScaler left on the optimizer.
  Scaling read_scaling(py::handle owner) const {
    Scaling scaling;
    if (!options_.amp) return scaling;
    const auto read = [&](PyObject* name) -> std::optional<double> {
      const py::object given = py::getattr(owner, name, py::none());
      if (given.is_none()) return std::nullopt;
      const double number = PyFloat_AsDouble(given.ptr());
      if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
      return number;
    };
    if (const auto scale = read(names().grad_scale)) {
      scaling.unscale = 1 / *scale;
      if (!(*scale > 0 && std::isfinite(*scale))) {
        throw py::value_error(type_of(owner) + ": step: grad_scale must be > 0 and finite, got " +
                              std::to_string(*scale) + "; let a GradScaler set it");
      }
    }
    if (const auto found = read(names().found_inf)) scaling.found_inf = *found != 0;
    return scaling;
  }

  static double read_norm(py::handle owner, const py::object& given) {
    const double norm = PyFloat_AsDouble(given.ptr());
    if (norm == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      throw py::type_error(type_of(owner) + ": step: grad_norm must be a number, got " + type_of(given) +
                           "; pass what torch.nn.utils.get_total_norm returns");
    }
    if (norm < 0) {
      throw py::value_error(type_of(owner) + ": step: grad_norm must be >= 0, got " + std::to_string(norm) +
                            "; pass what torch.nn.utils.get_total_norm returns");
    }
    return norm;
  }

  double power_sum(const double* weights) const {
    const int count = threads();
    const py::gil_scoped_release unlocked;
    return instruction_set().step.power_sum(work_.data(), static_cast<std::int64_t>(work_.size()), weights,
                                            options_.norm, count);
  }

  double finished(double sum) const { return options_.norm == NormKind::two ? root(sum) : sum; }

  // `spoilt` makes it infinite on all ranks; `made` becomes true on all if it is on one.
  double norm_over_ranks(py::handle owner, bool spoilt, bool& made) const {
    std::vector<double> weights;
    for (const std::size_t index : todo_) {
      weights.push_back(owner.attr("_share_of")(params_[index].object).cast<double>());
    }
    const double sum = spoilt ? infinity() : power_sum(weights.data());
    const py::tuple joined = owner.attr("_over_ranks")(sum, made, options_.norm == NormKind::infinity);
    made = joined[1].cast<bool>();
    return finished(joined[0].cast<double>());
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

  // What every tensor of a group shares.
  Numbers numbers_of(const Group& group, double base, const Scaling& scaling, double ema_decay) const {
    Numbers n{};
    const double rate = group.value[lr], weight = group.value[weight_decay];
    n.grad_scale = (group.maximize ? -1 : 1) * scaling.unscale * scaling.clip;
    n.grad_limit = options_.max_grad_value > 0 ? options_.max_grad_value : infinity();
    const bool decoupled = options_.rule == Rule::lion || (options_.rule == Rule::adam && group.decoupled);
    switch (options_.decay == DecayMode::own ? decoupled ? DecayMode::decoupled : DecayMode::l2
                                             : options_.decay) {
      case DecayMode::own:
      case DecayMode::l2:
        n.coupled = weight;
        break;
      case DecayMode::cautious:
        n.cautious = true;
        [[fallthrough]];
      case DecayMode::decoupled:
        n.decay = rate * weight;
        break;
      case DecayMode::composer:
        n.decay = base > 0 ? rate / base * weight : 0;
        break;
      case DecayMode::timm:
        n.decay = base > 0 ? rate * (rate / base) * weight : 0;
        break;
    }
    n.step_size = rate;
    n.beta1 = group.value[beta1], n.beta2 = group.value[beta2];
    n.epsilon = group.eps;
    n.amsgrad = group.amsgrad;
    n.momentum = group.value[momentum], n.undampened = 1 - group.dampening;
    n.nesterov = group.nesterov;
    n.ema = ema_decay;
    return n;
  }

  // Addresses of the state and the numbers of every tensor.
  void prepare(const Scaling& scaling, double ema_decay) {
    Numbers shared{};
    std::size_t group = groups_.size();                   // none yet
    double beta1 = -1, beta2 = -1, bias1 = 0, bias2 = 0;  // of the tensor before: most share them
    std::int64_t steps = -1;
    Mask mask = 0;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const std::size_t index = todo_[i];
      const State& state = params_[index].state;
      TensorUpdate& update = work_[i];
      if (group_of_[index] != group) {
        group = group_of_[index];
        shared = numbers_of(groups_[group], bases_.empty() ? 0 : bases_[group], scaling, ema_decay);
        mask = needed(groups_[group]);
      }
      const bool half = update.format[param] == Format::bfloat16 || update.format[param] == Format::float16;
      const Mask used = mask | (half && options_.master_weights ? bit(master) : 0);
      for (int o = first; o < operands; ++o) {
        update.at[o] = (used & bit(o)) != 0 ? state.at[o] : nullptr;
        update.format[o] = state.format[o];
      }
      update.rule = options_.rule;
      update.numbers = shared;
      if (options_.rule == Rule::adam) {
        if (steps != state.steps || beta1 != shared.beta1 || beta2 != shared.beta2) {
          steps = state.steps, beta1 = shared.beta1, beta2 = shared.beta2;
          bias1 = bias_correction(beta1, static_cast<double>(steps + 1));
          bias2 = 1 / root(bias_correction(beta2, static_cast<double>(steps + 1)));
        }
        update.numbers.step_size = shared.step_size / bias1;
        update.numbers.bias2 = bias2;
      }
      update.numbers.first_momentum = state.fresh_momentum;
      update.fresh_ema = state.fresh_ema;
      update.fresh_master = state.fresh_master;
      update.zero_grad = options_.zero_grads && !zero_late_;
      const auto word = [&](std::size_t k) {
        return hash_words(options_.seed, static_cast<std::uint64_t>(state.steps),
                          static_cast<std::uint32_t>(4 * index + k));
      };
      if (state.format[first] == Format::bfloat16) update.state_bits = {word(0), word(1)};
      update.param_at_random = options_.stochastic_rounding && update.format[param] == Format::bfloat16 &&
                               !options_.master_weights;
      if (update.param_at_random) update.param_bits = {word(2), word(3)};
    }
  }

  void collect_buffers(py::handle owner, double ema_decay) {
    buffer_work_.clear();
    buffer_strided_.clear();
    View to, held;
    for (const auto& [tensor, average] : buffers_) {
      if (!read_view(tensor.ptr(), to) || !read_view(average.ptr(), held) || to.dims != held.dims ||
          !std::equal(to.shape, to.shape + to.dims, held.shape)) {
        throw py::value_error(type_of(owner) +
                              ": step: a tensor of ema_buffers has another shape or no memory now; "
                              "make the optimizer anew");
      }
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

  void run() {
    const int count = threads();
    const py::gil_scoped_release unlocked;
    const auto step = instruction_set().step.step;
    step(work_.data(), static_cast<std::int64_t>(work_.size()), count);
    if (!buffers_.empty()) step(buffer_work_.data(), static_cast<std::int64_t>(buffer_work_.size()), 1);
  }

  // Zeroes the gradients in work_, and nothing else.
  void run_zeroing() {
    for (TensorUpdate& update : work_) {
      char* const address = update.at[grad];
      std::fill(update.at, update.at + operands, nullptr);
      update.at[grad] = address;
      update.rule = Rule::none;
      update.zero_grad = true;
    }
    buffer_work_.clear();
    run();
    zero_negated();
  }

  // Of a negated or conjugated gradient the work holds a copy; this is the gradient itself.
  void zero_negated() {
    for (const py::object& grad : negated_) grad.attr("zero_")();
    negated_.clear();
  }

  // As many threads as torch uses, if each gets enough elements to be worth its start: as many as torch gives
  // to one at least, and of small tensors more, for what describes them is longer than they are (400 x 256
  // elements take two threads as long as one).
  int threads() const {
    constexpr std::int64_t small = 1 << 12, worth_a_thread = 1 << 15, worth_of_small = 1 << 17;
    std::int64_t total = 0;
    for (const TensorUpdate& update : work_) total += update.count;
    const bool all_small = total < small * static_cast<std::int64_t>(work_.size());
    const std::int64_t share = all_small ? worth_of_small : worth_a_thread;
    return static_cast<int>(std::clamp<std::int64_t>(total / share, 1, usable_threads()));
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
        const bool kept = keep_written && group.was_written(h) && !group.holds_written(h);
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

  // One step's work, kept to be reused: entry i of todo_ and grads_ belongs to work_[i].
  std::vector<TensorUpdate> work_, buffer_work_;
  std::vector<std::size_t> todo_;
  std::vector<py::object> grads_, negated_;
  std::vector<Layout> strided_, buffer_strided_;
  std::vector<Extent> extents_;  // of the gradients at the step before
  bool extents_known_ = false, zero_late_ = false;
  std::vector<double> values_[hypers], scratch_;
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

// Why the step cannot use a CPU tensor; empty where it can.
std::string unreadable(const py::object& given) {
  const py::object tensor = is_sharded(given) ? shard_of(given) : given;
  dlpack::Tensor view;
  if (dlpack::exchange().tensor_from_object(tensor.ptr(), &view) != 0) {
    PyErr_Clear();
    return "must be a torch tensor with memory of its own, got a " + type_of(tensor);
  }
  if (view.data == nullptr && view.count() != 0) {
    return "must have memory of its own, got a " + type_of(tensor) + " without; use its local or real tensor";
  }
  if (overlap(view.ndim, view.shape, view.strides) == Overlap::overlapping) {
    return "must hold every element once, but its elements overlap (an expanded tensor?); clone it first";
  }
  Format format;
  bool complex = false;
  if (!find_format(view.dtype, format, complex) || view.device.type != dlpack::cpu) {
    return "must be a floating or complex tensor in CPU memory; convert it first";
  }
  return "";
}

void bind_optimizer(py::module_& m) {
  m.def("unreadable", &unreadable, py::arg("tensor"));
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
