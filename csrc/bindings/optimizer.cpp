// The native half of an optimizer: reads groups, parameters, gradients and state from Python objects, refuses
// what it cannot trust, and hands plain memory to the fused step. Nothing is changed before everything was
// checked.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/dlpack.hpp"
#include "cpu/kernels.hpp"
#include "cpu/row.hpp"
#include "scalar.hpp"
#include "tensors.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

// Interned once: attribute and key look-ups by identity.
struct Names {
  PyObject *betas, *eps, *exp_avg, *exp_avg_sq, *grad, *lr, *max_exp_avg_sq, *maximize, *amsgrad,
      *param_groups, *params, *state, *step, *weight_decay;
  PyTypeObject *tensor, *parameter;
  PyGetSetDef* grad_of;  // torch.Tensor.grad, called without the attribute machinery (25 ns of 125)

  Names() {
    const auto intern = [](const char* text) { return PyUnicode_InternFromString(text); };
    betas = intern("betas"), eps = intern("eps"), exp_avg = intern("exp_avg"),
    exp_avg_sq = intern("exp_avg_sq");
    grad = intern("grad"), lr = intern("lr"), max_exp_avg_sq = intern("max_exp_avg_sq");
    maximize = intern("maximize"), amsgrad = intern("amsgrad"), param_groups = intern("param_groups");
    params = intern("params"), state = intern("state"), step = intern("step"),
    weight_decay = intern("weight_decay");
    py::module_ torch = py::module_::import("torch");
    tensor = reinterpret_cast<PyTypeObject*>(py::object(torch.attr("Tensor")).release().ptr());
    parameter =
        reinterpret_cast<PyTypeObject*>(py::object(torch.attr("nn").attr("Parameter")).release().ptr());
    py::object descriptor = torch.attr("Tensor").attr("grad");
    const bool native = Py_IS_TYPE(descriptor.ptr(), &PyGetSetDescr_Type);
    grad_of = native ? reinterpret_cast<PyGetSetDescrObject*>(descriptor.ptr())->d_getset : nullptr;
  }
};

const Names& names() {
  static const Names* known =
      nullptr;  // leaked on purpose: no destructor may run after the interpreter is gone
  if (known == nullptr) known = new Names();
  return *known;
}

py::object checked(PyObject* object) {
  if (object == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

// Borrowed; null where the key is absent.
PyObject* item(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

// Says whether a dict may have changed since `mark`. Until Python 3.11 every change of any dict takes a new
// number from one counter (PEP 509), so that an equal number means an untouched dict; later versions always
// answer "perhaps".
class Watched {
public:
  void mark(py::object dict) {
    dict_ = std::move(dict);
    version_ = version();
  }
  void mark() { version_ = version(); }
  void watch(py::object dict) {  // not looked at yet
    dict_ = std::move(dict);
    version_ = 0;
  }
  void forget() { version_ = 0; }
  bool is(PyObject* other) const { return dict_.ptr() == other; }
  PyObject* get() const { return dict_.ptr(); }
  bool unchanged() const { return version_ != 0 && version_ == version(); }

private:
  std::uint64_t version() const {
#if PY_VERSION_HEX < 0x030C0000
    return reinterpret_cast<PyDictObject*>(dict_.ptr())->ma_version_tag;
#else
    return 0;
#endif
  }
  py::object dict_;
  std::uint64_t version_ = 0;
};

// Memory that torch tensors and the engine share: freed when the last of them is gone, and at the same
// address until then.
using Memory = std::shared_ptr<char>;
constexpr std::size_t alignment = 64;

Memory zeros(std::size_t bytes) {
  char* raw =
      static_cast<char*>(std::calloc(bytes + alignment, 1));  // fresh pages are zero already: no extra pass
  if (raw == nullptr) throw std::bad_alloc();
  const std::size_t shift = alignment - reinterpret_cast<std::uintptr_t>(raw) % alignment;
  return Memory(raw + shift, [raw](char*) { std::free(raw); });
}

// A float32 CPU torch tensor over `data` inside `memory`. torch cannot resize its storage, so the address
// stays good.
py::object tensor_over(const Memory& memory, float* data, int dims, const std::int64_t* shape,
                       const std::int64_t* strides) {
  struct Lease : dlpack::ManagedTensor {
    Memory memory;
    std::vector<std::int64_t> sizes;
  };
  auto lease = std::make_unique<Lease>();
  lease->memory = memory;
  lease->sizes.assign(shape, shape + dims);
  lease->sizes.insert(lease->sizes.end(), strides, strides + dims);
  lease->version = {1, 0};
  lease->context = nullptr;
  lease->flags = 0;
  lease->deleter = [](dlpack::ManagedTensor* self) { delete static_cast<Lease*>(self); };
  lease->tensor = {data,
                   {dlpack::cpu, 0},
                   dims,
                   {dlpack::floating, 32, 1},
                   lease->sizes.data(),
                   lease->sizes.data() + dims,
                   0};
  void* object = nullptr;
  if (dlpack::exchange().object_from_managed(lease.get(), &object) != 0) throw py::error_already_set();
  lease.release();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

// Strides of dimensions of length 1 say nothing.
bool same_strides(int dims, const std::int64_t* shape, const std::int64_t* a, const std::int64_t* b) {
  for (int d = 0; d < dims; ++d) {
    if (a[d] != b[d] && shape[d] > 1) return false;
  }
  return true;
}

enum class Overlap { dense, gaps, overlapping };

// dense: every address of one block is used once, in some order of the dimensions.
Overlap overlap(int dims, const std::int64_t* shape, const std::int64_t* strides) {
  std::vector<std::pair<std::int64_t, std::int64_t>> order;  // stride, length
  for (int d = 0; d < dims; ++d) {
    if (shape[d] == 0) return Overlap::dense;
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

struct Group {
  Watched dict;
  py::object params;              // the list
  PyObject* lr_object = nullptr;  // borrowed from the dict; only valid while the dict is unchanged
  py::object written;             // the float that write_lr left there
  bool reread = false;  // a hyperparameter is no plain number: its value may change while the dict does not
  AdamWNumbers numbers{};
  bool amsgrad = false;
  std::size_t end = 0;  // its parameters end here in Engine::params_
};

// The tensors of state[p] that this engine owns.
struct State {
  Memory memory;
  py::object step_tensor, tensors[operands];
  float* step = nullptr;  // null: not bound. float32, as torch has it
  float* at[operands] = {};
  std::int64_t steps = 0;                    // the same, exact past 2**24
  std::vector<std::int64_t> shape, strides;  // strides are dense
};

struct Param {
  py::object object;
  Watched dict;  // state[p]
  State state;
  bool repeated = false;           // stands earlier too; torch has warned of it, and it is updated once
  PyObject* plain_grad = nullptr;  // the gradient last seen without torch's negative bit; only compared
  void* plain_data = nullptr;
};

// Marks the engine as in use; a second thread or a callback that calls step() again gets an error instead of
// chaos.
class Busy {
public:
  explicit Busy(bool& flag) : flag_(flag) {
    if (flag) throw std::runtime_error("step: already running; one step at a time per optimizer");
    flag = true;
  }
  ~Busy() { flag_ = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

private:
  bool& flag_;
};

std::string type_of(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

class Engine : public Zeroed {
public:
  // One update of every parameter that has a gradient. `owner` is the torch optimizer.
  void step(py::handle owner) {
    const Busy busy(busy_);
    const Release release{grads_};
    refresh(owner);
    if (row_ && row_.cast<const RowObject&>().groups() != groups_.size()) {
      throw py::value_error("step: param_groups has " + std::to_string(groups_.size()) +
                            " groups, the schedule another number; add groups with add_param_group()");
    }
    find_grads();
    collect(owner);
    if (work_.empty()) return;
    const bool probe = is_checkpoint_probe();
    if (create_state()) collect(owner);  // making dicts may have run code: the addresses are read again
    if (probe) return;
    prepare();
    {
      const int count = threads();
      py::gil_scoped_release unlocked;
      instruction_set().step.adamw(work_.data(), static_cast<std::int64_t>(work_.size()), count);
    }
    for (const std::size_t index : todo_) {
      State& state = params_[index].state;
      *state.step = static_cast<float>(++state.steps);
    }
    ++position_;
    write_lrs(false);
  }

  // Binds whatever state[p] holds; returns the largest step found there.
  std::int64_t bind(py::handle owner) {
    const Busy busy(busy_);
    refresh(owner);
    std::int64_t most = 0;
    for (const Param& p : params_) {
      if (p.state.step != nullptr) most = std::max(most, p.state.steps);
    }
    return most;
  }

  std::int64_t position() const { return position_; }

  // Takes `row` and moves to update `position`: every group["lr"] becomes what that update will use, but with
  // `keep_written` for those into which somebody wrote.
  void move_to(py::handle owner, std::int64_t position, py::object row, bool keep_written) {
    const Busy busy(busy_);
    if (position < 0 || position > (std::int64_t{1} << 53))
      throw py::value_error("move_to: position must be in 0..2**53");
    if (!row.is_none() && !py::isinstance<RowObject>(row)) {
      throw py::type_error("move_to: row must be a Row or None, got " + type_of(row));
    }
    refresh_groups(owner);
    if (!row.is_none() && row.cast<const RowObject&>().groups() != groups_.size()) {
      throw py::value_error("move_to: the row must have one entry per group");
    }
    row_ = row.is_none() ? py::object() : std::move(row);
    position_ = position;
    write_lrs(keep_written);
  }

private:
  struct Release {
    std::vector<py::object>& objects;
    ~Release() { objects.clear(); }
  };

  void refresh(py::handle owner) {
    refresh_groups(owner);
    refresh_state(owner);
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
      Group& group = groups_[i];
      PyObject* dict = PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
      if (!group.dict.is(dict) || !group.dict.unchanged() || group.reread) {
        read(group, dict, i);
      } else {
        group.numbers.lr =
            PyFloat_AsDouble(group.lr_object);  // another optimizer with this dict may have written in place
      }
    }
    if (!same_params()) read_params();
  }

  // Numbers may be any object with __float__, whose code may do anything to the groups: hence owned
  // references here.
  static double number(const py::object& value, const char* name, std::size_t group, bool& reread) {
    if (value && PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
    const double result = value ? PyFloat_AsDouble(value.ptr()) : -1.0;
    if (!value || (result == -1.0 && PyErr_Occurred())) {
      PyErr_Clear();
      const std::string index = std::to_string(group);
      throw py::type_error("group " + index + ": " + name + " must be a number, got " +
                           (value ? type_of(value) : "nothing") + "; write one into param_groups[" + index +
                           "]['" + name + "']");
    }
    reread |= !PyLong_CheckExact(value.ptr());
    return result;
  }

  static bool truth(const py::object& value) {
    const int result = value ? PyObject_IsTrue(value.ptr()) : 0;
    if (result < 0) throw py::error_already_set();
    return result != 0;
  }

  static void read(Group& group, PyObject* dict, std::size_t index) {
    if (!PyDict_Check(dict)) {
      throw py::type_error("param_groups[" + std::to_string(index) + "]: must be a dict, got " +
                           type_of(dict));
    }
    if (!group.dict.is(dict)) group.written = py::object();
    group.dict.mark(py::reinterpret_borrow<py::object>(dict));
    group.reread = true;  // stays so if something below is refused
    const auto get = [&](PyObject* key) { return py::reinterpret_borrow<py::object>(item(dict, key)); };
    const auto refuse = [&](const std::string& rule, const py::object& received) {
      throw py::type_error("group " + std::to_string(index) + ": " + rule + ", got " +
                           (received ? type_of(received) : "nothing"));
    };
    group.params = get(names().params);
    if (!group.params || !PyList_Check(group.params.ptr())) {
      const py::object params = std::move(group.params);
      group.params = py::list();
      refuse("params must be a list", params);
    }
    const py::object betas = get(names().betas);
    if (!betas || !(PyTuple_Check(betas.ptr()) || PyList_Check(betas.ptr())))
      refuse("betas must be two numbers", betas);
    const py::tuple pair(betas);  // a list may change while its numbers are read
    if (pair.size() != 2) refuse("betas must be two numbers", betas);
    bool reread = !PyTuple_CheckExact(betas.ptr());
    group.numbers.beta1 = number(pair[0], "betas", index, reread);
    group.numbers.beta2 = number(pair[1], "betas", index, reread);
    group.numbers.eps = number(get(names().eps), "eps", index, reread);
    group.numbers.weight_decay = number(get(names().weight_decay), "weight_decay", index, reread);
    group.numbers.lr = number(get(names().lr), "lr", index, reread);
    group.numbers.maximize = truth(get(names().maximize));
    group.amsgrad = truth(get(names().amsgrad));
    group.lr_object = item(dict, names().lr);
    group.reread = reread;
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
    state_map_ = Watched();
    std::unordered_set<PyObject*> seen;
    for (Group& group : groups_) {
      PyObject* list = group.params.ptr();
      for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        const py::object object = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list, i));
        const auto found = known.find(object.ptr());
        const bool first = seen.insert(object.ptr()).second;
        params_.push_back(first && found != known.end() ? std::move(found->second) : Param());
        params_.back().object = object;
        params_.back().repeated = !first;
      }
      group.end = params_.size();
    }
  }

  // ---- state

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
        if (!p.dict.unchanged() || group.amsgrad != (p.state.at[max_exp_avg_sq] != nullptr)) {
          take_over(owner, p, group.amsgrad);
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
  // two steps.
  void take_over(py::handle owner, Param& p, bool amsgrad) {
    PyObject* dict = p.dict.get();
    if (PyDict_Size(dict) == 0) {
      p.state = State();
      return;
    }
    if (!holds_own(p, amsgrad)) {
      State fresh;
      dlpack::Tensor view;
      if (!read_tensor(p.object.ptr(), view) || !take_layout(fresh, view)) refuse(owner, p, py::none());
      allocate({&fresh}, {amsgrad});
      owner.attr("_fill_state")(p.object, py::handle(dict), as_dict(fresh));
      p.state = std::move(fresh);
    }
    if (!amsgrad) {  // left in the dict, as torch does, but not used
      p.state.at[max_exp_avg_sq] = nullptr;
      p.state.tensors[max_exp_avg_sq] = py::object();
    }
    read_steps(p);
    p.dict.mark();
  }

  static void read_steps(Param& p) {
    const float steps = *p.state.step;
    if (!(steps >= 0 && steps < 9.2e18f))
      throw py::value_error("state: step must be a number of updates >= 0, got " + std::to_string(steps) +
                            "; write the number of updates made into state[p]['step']");
    p.state.steps = static_cast<std::int64_t>(steps);
  }

  static bool holds_own(const Param& p, bool amsgrad) {
    const State& state = p.state;
    if (state.step == nullptr || (amsgrad && !state.tensors[max_exp_avg_sq])) return false;
    PyObject* dict = p.dict.get();
    return item(dict, names().step) == state.step_tensor.ptr() &&
           item(dict, names().exp_avg) == state.tensors[exp_avg].ptr() &&
           item(dict, names().exp_avg_sq) == state.tensors[exp_avg_sq].ptr() &&
           (!amsgrad || item(dict, names().max_exp_avg_sq) == state.tensors[max_exp_avg_sq].ptr());
  }

  // Memory for all of `states`, whose layouts are known: one block, zeroed, shared by torch tensors.
  static void allocate(const std::vector<State*>& states, const std::vector<bool>& amsgrad) {
    constexpr std::size_t line = alignment / sizeof(float);
    const auto padded = [](std::size_t count) { return (count + line - 1) / line * line; };
    const auto elements = [](const State& state) {
      std::size_t count = 1;
      for (const std::int64_t length : state.shape) count *= static_cast<std::size_t>(length);
      return count;
    };
    std::size_t total = padded(states.size());
    for (std::size_t i = 0; i < states.size(); ++i)
      total += (amsgrad[i] ? 3 : 2) * padded(elements(*states[i]));
    const Memory memory = zeros(total * sizeof(float));
    float* next = reinterpret_cast<float*>(memory.get());
    for (State* state : states) state->step = next++;
    next = reinterpret_cast<float*>(memory.get()) + padded(states.size());
    for (std::size_t i = 0; i < states.size(); ++i) {
      State& state = *states[i];
      state.memory = memory;
      state.step_tensor = tensor_over(memory, state.step, 0, nullptr, nullptr);
      for (const int o : {exp_avg, exp_avg_sq, max_exp_avg_sq}) {
        if (o == max_exp_avg_sq && !amsgrad[i]) continue;
        state.at[o] = next;
        state.tensors[o] = tensor_over(memory, next, static_cast<int>(state.shape.size()), state.shape.data(),
                                       state.strides.data());
        next += padded(elements(state));
      }
    }
  }

  static py::dict as_dict(const State& state) {
    py::dict dict;
    dict[names().step] = state.step_tensor;
    dict[names().exp_avg] = state.tensors[exp_avg];
    dict[names().exp_avg_sq] = state.tensors[exp_avg_sq];
    if (state.tensors[max_exp_avg_sq]) dict[names().max_exp_avg_sq] = state.tensors[max_exp_avg_sq];
    return dict;
  }

  // State for the parameters that see their first gradient; false where there are none.
  bool create_state() {
    std::vector<State*> states;
    std::vector<bool> amsgrad;
    for (std::size_t i = 0; i < todo_.size(); ++i) {
      State& state = params_[todo_[i]].state;
      if (state.step != nullptr) continue;
      states.push_back(&state);
      amsgrad.push_back(groups_[group_of_[i]].amsgrad);
    }
    if (states.empty()) return false;
    allocate(states, amsgrad);
    for (const std::size_t index : todo_) {
      Param& p = params_[index];
      if (p.dict.get() != nullptr && PyDict_Size(p.dict.get()) != 0) continue;
      py::dict dict = as_dict(p.state);
      if (PyDict_SetItem(state_map_.get(), p.object.ptr(), dict.ptr()) != 0) throw py::error_already_set();
      p.dict.mark(std::move(dict));
    }
    state_map_.mark();
    return true;
  }

  // ---- gradients

  // False where the tensor has no float32 CPU memory that can be trusted. Wrapper subclasses (DTensor,
  // FakeTensor, functional tensors) come back with a null address and the full shape.
  static bool read_tensor(PyObject* object, dlpack::Tensor& view) {
    if (dlpack::exchange().tensor_from_object(object, &view) != 0) {
      PyErr_Clear();
      return false;
    }
    return view.dtype.code == dlpack::floating && view.dtype.bits == 32 && view.dtype.lanes == 1 &&
           view.device.type == dlpack::cpu && (view.data != nullptr || view.count() == 0);
  }

  // Gives `state` the shape of `view`, and its strides where they leave no gaps; false where elements
  // overlap.
  static bool take_layout(State& state, const dlpack::Tensor& view) {
    state.shape.assign(view.shape, view.shape + view.ndim);
    state.strides.assign(view.strides, view.strides + view.ndim);
    const Overlap kind = overlap(view.ndim, view.shape, view.strides);
    if (kind == Overlap::gaps) {
      std::int64_t stride = 1;
      for (int d = view.ndim - 1; d >= 0; --d) {
        state.strides[d] = stride;
        stride *= view.shape[d];
      }
    }
    return kind != Overlap::overlapping;
  }

  static bool same_shape(const State& state, const dlpack::Tensor& view) {
    return static_cast<std::size_t>(view.ndim) == state.shape.size() &&
           std::equal(state.shape.begin(), state.shape.end(), view.shape);
  }

  // No subclass, whose attributes and methods may be Python code.
  static bool is_plain(py::handle tensor) {
    const PyTypeObject* type = Py_TYPE(tensor.ptr());
    return type == names().parameter || type == names().tensor;
  }

  static py::object grad_of(py::handle param) {
    const PyGetSetDef* direct = names().grad_of;
    if (direct != nullptr && is_plain(param)) {
      return checked(direct->get(param.ptr(), direct->closure));
    }
    return checked(PyObject_GetAttr(param.ptr(), names().grad));
  }

  // The exchange hands out a negated view as if it were a plain one. Asking costs 140 ns, so a gradient that
  // was asked before is not asked again.
  static bool is_negative(Param& p, const py::object& grad, const dlpack::Tensor& view) {
    if (p.plain_grad == grad.ptr() && p.plain_data == view.data) return false;
    if (grad.attr("is_neg")().cast<bool>()) return true;
    p.plain_grad = grad.ptr();
    p.plain_data = view.data;
    return false;
  }

  // Finds every parameter that has a gradient. Subclasses of Tensor may run code of their own here.
  void find_grads() {
    todo_.clear();
    group_of_.clear();
    std::size_t index = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (; index < groups_[g].end; ++index) {
        if (params_[index].repeated) continue;
        py::object grad = grad_of(params_[index].object);
        if (grad.is_none()) continue;
        if (!is_plain(grad) && grad.attr("is_neg")().cast<bool>()) grad = grad.attr("resolve_neg")();
        todo_.push_back(index);
        group_of_.push_back(g);
        grads_.push_back(std::move(grad));
      }
    }
  }

  // Reads those parameters and gradients into work_, and refuses before anything is changed. From here to the
  // update no code but torch's own runs, so the addresses stay good.
  void collect(py::handle owner) {
    work_.clear();
    strided_.clear();
    for (std::size_t i = 0; i < todo_.size(); ++i) {
      Param& p = params_[todo_[i]];
      py::object& grad = grads_[i];
      dlpack::Tensor to, from;
      if (!read_tensor(p.object.ptr(), to) || !read_tensor(grad.ptr(), from)) refuse(owner, p, grad);
      if (is_plain(grad) && is_negative(p, grad, from)) {
        grad = grad.attr("resolve_neg")();
        if (!read_tensor(grad.ptr(), from)) refuse(owner, p, grad);
      }
      if (p.state.step == nullptr && !take_layout(p.state, to)) refuse(owner, p, grad);
      if (!same_shape(p.state, to) || !same_shape(p.state, from)) refuse(owner, p, grad);
      work_.emplace_back();
      AdamWork& work = work_.back();
      work.at[param] = reinterpret_cast<float*>(to.address());
      work.at[fastsched::grad] = reinterpret_cast<float*>(from.address());
      work.count = to.count();
      const std::int64_t* strides = p.state.strides.data();
      if (!same_strides(to.ndim, to.shape, to.strides, strides) ||
          !same_strides(to.ndim, to.shape, from.strides, strides)) {
        if (overlap(to.ndim, to.shape, to.strides) == Overlap::overlapping) refuse(owner, p, grad);
        strided_.emplace_back(i, p.state, to, from);
      }
    }
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
      if (group.numbers.lr != 0 || (row_ && holds_written(group))) return false;
    }
    for (const Param& p : params_) {
      if (p.state.step != nullptr) return false;
    }
    for (std::size_t i = 0, next = 0; i < work_.size(); ++i) {
      if (next < strided_.size() && strided_[next].work == i) {
        if (grads_[i].attr("any")().cast<bool>()) return false;
        ++next;
        continue;
      }
      const float* g = work_[i].at[fastsched::grad];
      if (!std::all_of(g, g + work_[i].count, [](float x) { return x == 0; })) return false;
    }
    return true;
  }

  // ---- the update

  // Addresses of the state and the rule of every tensor.
  void prepare() {
    double beta1 = -1, beta2 = -1, bias1 = 0, bias2 = 0;  // of the tensor before: most share them
    std::int64_t steps = -1;
    for (std::size_t i = 0; i < work_.size(); ++i) {
      const State& state = params_[todo_[i]].state;
      const AdamWNumbers& numbers = groups_[group_of_[i]].numbers;
      for (const int o : {exp_avg, exp_avg_sq, max_exp_avg_sq}) work_[i].at[o] = state.at[o];
      if (steps != state.steps || beta1 != numbers.beta1 || beta2 != numbers.beta2) {
        steps = state.steps, beta1 = numbers.beta1, beta2 = numbers.beta2;
        bias1 = bias_correction(beta1, static_cast<double>(steps + 1));
        bias2 = bias_correction(beta2, static_cast<double>(steps + 1));
      }
      work_[i].rule = adamw_rule<float>(numbers, bias1, bias2);
    }
    for (Layout& layout : strided_) {
      const std::size_t dims = layout.dims;
      const std::int64_t* numbers = layout.numbers.data();
      const bool amsgrad = work_[layout.work].at[max_exp_avg_sq] != nullptr;
      layout.strided = {static_cast<int>(dims),
                        numbers,
                        {numbers + dims, numbers + 2 * dims, numbers + 3 * dims, numbers + 3 * dims,
                         amsgrad ? numbers + 3 * dims : nullptr}};
      work_[layout.work].strided = &layout.strided;
    }
  }

  // As many threads as torch uses, if each gets as many elements as torch gives to one at least.
  int threads() const {
    constexpr std::int64_t worth_a_thread = 1 << 15;
    std::int64_t total = 0;
    for (const AdamWork& work : work_) total += work.count;
    return static_cast<int>(std::clamp<std::int64_t>(total / worth_a_thread, 1, usable_threads()));
  }

  // Leaves in every group the lr that the next update will use.
  void write_lrs(bool keep_written) {
    if (!row_) return;
    const Row& row = row_.cast<const RowObject&>();
    values_.resize(groups_.size());
    scratch_.resize(row.programs.size());
    row.at(static_cast<double>(position_), scratch_.data(), values_.data());
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      Group& group = groups_[i];
      if (std::isnan(values_[i])) continue;  // this group has no schedule
      if (keep_written && group.written && !holds_written(group)) continue;
      write_lr(group, values_[i]);
    }
  }

  // Where only the dict and the engine hold the float, it is overwritten: 1 ns instead of 45, and the dict
  // stays unchanged for the next step (benchmarks/bench_step.py, 400 groups). Whoever reads the lr holds it
  // too: then a new one is made.
  static void write_lr(Group& group, double lr) {
    const bool unchanged = group.dict.unchanged();
    if (unchanged && holds_written(group) && Py_REFCNT(group.lr_object) == 2) {
      reinterpret_cast<PyFloatObject*>(group.lr_object)->ob_fval = lr;
      return;
    }
    group.written = checked(PyFloat_FromDouble(lr));
    if (PyDict_SetItem(group.dict.get(), names().lr, group.written.ptr()) != 0) throw py::error_already_set();
    group.lr_object = group.written.ptr();
    if (unchanged) group.dict.mark();
  }

  // False where somebody wrote another lr into the group since.
  static bool holds_written(const Group& group) { return group.lr_object == group.written.ptr(); }

  // Where one update's operands differ in layout: its place in work_, shape, strides of param, grad and
  // state.
  struct Layout {
    Layout(std::size_t place, const State& state, const dlpack::Tensor& to, const dlpack::Tensor& from)
        : work(place), dims(state.shape.size()) {
      numbers = state.shape;
      numbers.insert(numbers.end(), to.strides, to.strides + dims);
      numbers.insert(numbers.end(), from.strides, from.strides + dims);
      numbers.insert(numbers.end(), state.strides.begin(), state.strides.end());
    }
    std::size_t work, dims;
    std::vector<std::int64_t> numbers;
    Strided strided{};
  };

  bool busy_ = false;
  std::int64_t position_ = 0;  // the update about to be made
  py::object row_;             // Row of the lrs; null: group["lr"] stands as it is
  Watched state_map_;          // the optimizer's `state`
  std::vector<Group> groups_;
  std::vector<Param> params_;

  // One step's work, kept to be reused: entry i of todo_, group_of_ and grads_ belongs to work_[i].
  std::vector<AdamWork> work_;
  std::vector<std::size_t> todo_, group_of_;
  std::vector<py::object> grads_;
  std::vector<Layout> strided_;
  std::vector<double> values_, scratch_;
};

}  // namespace

// Why the step cannot use a float32 CPU tensor; empty where it can.
std::string unreadable(const py::object& tensor) {
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
  return "";
}

void bind_optimizer(py::module_& m) {
  m.def("unreadable", &unreadable, py::arg("tensor"));
  py::class_<Engine>(m, "Engine", "The native half of one optimizer.")
      .def(py::init<>())
      .def_property_readonly("position", &Engine::position)
      .def("step", &Engine::step, py::arg("owner"))
      .def("bind", &Engine::bind, py::arg("owner"))
      .def("move_to", &Engine::move_to, py::arg("owner"), py::arg("position"), py::arg("row"),
           py::arg("keep_written") = false);
}

}  // namespace fastsched
