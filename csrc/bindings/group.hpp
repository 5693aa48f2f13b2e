// Parameter groups as the engine reads and writes them: hyperparameters in torch's dicts.
#pragma once

#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "bindings/tensor.hpp"
#include "numbers.hpp"

namespace fastsched {

// Interned once: attribute and key look-ups by identity.
struct Names {
  PyObject *amsgrad, *betas, *capturable, *dampening, *decoupled_weight_decay, *ema, *eps, *exp_avg,
      *exp_avg_sq, *found_inf, *grad, *grad_scale, *initial_lr, *lr, *master_param, *max_exp_avg_sq,
      *maximize, *momentum, *momentum_buffer, *nesterov, *param_groups, *params, *state, *step, *weight_decay;
  PyObject* is_neg;      // the method of torch.Tensor
  PyGetSetDef* grad_of;  // torch.Tensor.grad, called without the attribute machinery (25 ns of 125)

  Names() {
    namespace py = pybind11;
    const auto intern = [](PyObject*& name, const char* text) { name = PyUnicode_InternFromString(text); };
    intern(amsgrad, "amsgrad");
    intern(betas, "betas");
    intern(capturable, "capturable");
    intern(dampening, "dampening");
    intern(decoupled_weight_decay, "decoupled_weight_decay");
    intern(ema, "ema");
    intern(eps, "eps");
    intern(exp_avg, "exp_avg");
    intern(exp_avg_sq, "exp_avg_sq");
    intern(found_inf, "found_inf");
    intern(grad, "grad");
    intern(grad_scale, "grad_scale");
    intern(initial_lr, "initial_lr");
    intern(lr, "lr");
    intern(master_param, "master_param");
    intern(max_exp_avg_sq, "max_exp_avg_sq");
    intern(maximize, "maximize");
    intern(momentum, "momentum");
    intern(momentum_buffer, "momentum_buffer");
    intern(nesterov, "nesterov");
    intern(param_groups, "param_groups");
    intern(params, "params");
    intern(state, "state");
    intern(step, "step");
    intern(weight_decay, "weight_decay");
    const py::module_ torch = py::module_::import("torch");
    is_neg = py::object(torch.attr("Tensor").attr("is_neg")).release().ptr();
    const py::object descriptor = torch.attr("Tensor").attr("grad");
    const bool native = Py_IS_TYPE(descriptor.ptr(), &PyGetSetDescr_Type);
    grad_of = native ? reinterpret_cast<PyGetSetDescrObject*>(descriptor.ptr())->d_getset : nullptr;
  }
};

inline const Names& names() {
  static const Names* known =
      nullptr;  // leaked on purpose: no destructor may run after the interpreter is gone
  if (known == nullptr) known = new Names();
  return *known;
}

// Before another error takes its place; what is no Exception, such as Ctrl-C, is passed on.
inline void clear_error() {
  if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) throw pybind11::error_already_set();
  PyErr_Clear();
}

inline pybind11::object checked(PyObject* object) {
  if (object == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(object);
}

// Borrowed; null where the key is absent.
inline PyObject* item(PyObject* dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred()) throw pybind11::error_already_set();
  return value;
}

// Until Python 3.11 every change of any dict takes a new number from one counter (PEP 509), so that an equal
// number means the same dict, untouched. 0: there is no such number.
inline std::uint64_t dict_version(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
  (void)dict;
  return 0;
#endif
}

// Says whether a dict may have changed since `mark`; without dict_version(), always.
class Watched {
public:
  void mark(pybind11::object dict) {
    dict_ = std::move(dict);
    mark();
  }
  void mark() { version_ = dict_version(dict_.ptr()); }
  void watch(pybind11::object dict) {  // not looked at yet
    dict_ = std::move(dict);
    version_ = 0;
  }
  void forget() { version_ = 0; }
  bool is(PyObject* other) const { return dict_.ptr() == other; }
  PyObject* get() const { return dict_.ptr(); }
  bool unchanged() const { return version_ != 0 && version_ == dict_version(dict_.ptr()); }

private:
  pybind11::object dict_;
  std::uint64_t version_ = 0;
};

// Marks an object as in use; a second thread or a callback that calls it again gets an error instead of
// chaos.
class Busy {
public:
  Busy(bool& flag, const char* message) : flag_(flag) {
    if (flag) throw std::runtime_error(message);
    flag = true;
  }
  ~Busy() { flag_ = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

private:
  bool& flag_;
};

// The two betas stand in one tuple.
constexpr const char* hyper_names[hypers] = {"lr", "weight_decay", "momentum", "beta1", "beta2"};

inline PyObject* key_of(int hyper) {
  PyObject* const keys[] = {names().lr, names().weight_decay, names().momentum, names().betas, names().betas};
  return keys[hyper];
}

// One of torch's param_groups.
class Group : public Constants {
public:
  Watched dict;
  pybind11::object params;  // the list
  double value[hypers] = {};
  pybind11::object lr_tensor;   // on a CUDA device (capturable): value[lr] is not known here then
  bool has_initial_lr = false;  // every torch scheduler leaves it
  std::size_t end = 0;          // its parameters end here in Engine::params_

  // Brings the values up to date with `group`, which is param_groups[index].
  void refresh(PyObject* group, std::size_t index, Rule rule) {
    if (!dict.is(group) || !dict.unchanged() || reread_) {
      read(group, index, rule);
    } else {
      for (int h = 0; h < hypers; ++h) {
        // another optimizer with this dict may have written in place
        if (object_[h] != nullptr) value[h] = PyFloat_AsDouble(object_[h]);
      }
    }
    for (const double beta : {value[beta1], value[beta2]}) {
      if (beta >= 0 && beta < 1) continue;
      throw pybind11::value_error("group " + std::to_string(index) + ": betas must be >= 0 and < 1, got " +
                                  std::to_string(beta) + "; write others, or a schedule that stays below 1");
    }
  }

  // False where somebody wrote another number since `write`.
  bool holds_written(int hyper) const { return object_[hyper] == written_[hyper].ptr(); }
  bool was_written(int hyper) const { return static_cast<bool>(written_[hyper]); }

  // What somebody wrote has been passed on: from now on it counts as written by `write`.
  void passed_on(int hyper) {
    if (object_[hyper] != nullptr)
      written_[hyper] = pybind11::reinterpret_borrow<pybind11::object>(object_[hyper]);
  }

  // Where only the dict and this object hold the float, it is overwritten: 1 ns instead of 45, and the dict
  // stays unchanged for the next step (benchmarks/bench_step.py, 400 groups). Whoever reads the number holds
  // it too: then a new one is made.
  void write(int hyper, double number) {
    const bool unchanged = dict.unchanged();
    if (unchanged && mine_alone(hyper)) {
      reinterpret_cast<PyFloatObject*>(object_[hyper])->ob_fval = number;
      return;
    }
    written_[hyper] = checked(PyFloat_FromDouble(number));
    put(hyper, written_[hyper].ptr(), unchanged);
    object_[hyper] = written_[hyper].ptr();
  }

  // NaN leaves a beta as it is.
  void write_betas(double first, double second) {
    const double number[2] = {first, second};
    const bool unchanged = dict.unchanged();
    bool in_place = unchanged && betas_ && Py_REFCNT(betas_.ptr()) == 2;
    for (int b = 0; b < 2; ++b) in_place = in_place && (std::isnan(number[b]) || mine_alone(beta1 + b));
    if (in_place) {
      for (int b = 0; b < 2; ++b) {
        if (!std::isnan(number[b])) reinterpret_cast<PyFloatObject*>(object_[beta1 + b])->ob_fval = number[b];
      }
      return;
    }
    pybind11::object beta[2];
    for (int b = 0; b < 2; ++b) {
      const bool given = !std::isnan(number[b]);
      beta[b] = checked(PyFloat_FromDouble(given ? number[b] : value[beta1 + b]));
      if (given) written_[beta1 + b] = beta[b];
    }
    const pybind11::object pair = checked(PyTuple_Pack(2, beta[0].ptr(), beta[1].ptr()));
    put(beta1, pair.ptr(), unchanged);
    betas_ = pair;
    for (int b = 0; b < 2; ++b) object_[beta1 + b] = beta[b].ptr();
  }

private:
  bool mine_alone(int hyper) const {
    return object_[hyper] != nullptr && holds_written(hyper) && Py_REFCNT(object_[hyper]) == 2;
  }

  void put(int hyper, PyObject* object, bool unchanged) {
    if (PyDict_SetItem(dict.get(), key_of(hyper), object) != 0) throw pybind11::error_already_set();
    if (unchanged) dict.mark();
  }

  // Numbers may be any object with __float__, whose code may do anything to the groups: hence owned
  // references here.
  double number(const pybind11::object& given, const char* name, std::size_t group, bool& reread) const {
    if (given && PyFloat_CheckExact(given.ptr())) return PyFloat_AS_DOUBLE(given.ptr());
    const double result = given ? PyFloat_AsDouble(given.ptr()) : -1.0;
    if (!given || (result == -1.0 && PyErr_Occurred())) {
      clear_error();
      const std::string index = std::to_string(group);
      throw pybind11::type_error("group " + index + ": " + name + " must be a number, got " +
                                 (given ? type_of(given) : "nothing") + "; write one into param_groups[" +
                                 index + "]['" + name + "']");
    }
    reread |= !PyLong_CheckExact(given.ptr());
    return result;
  }

  // The lr where it is a tensor whose number a CUDA device reads by itself; the host would have to wait for
  // it.
  static pybind11::object on_device(pybind11::object given) {
    View view;
    const bool is_tensor = given && !PyFloat_CheckExact(given.ptr()) && is_plain(given);
    const bool there = is_tensor && read_view(given.ptr(), view) && view.device != on_cpu && view.count == 1;
    return there ? given : pybind11::object();
  }

  void read(PyObject* group, std::size_t index, Rule rule) {
    namespace py = pybind11;
    if (!PyDict_Check(group)) {
      throw py::type_error("param_groups[" + std::to_string(index) + "]: must be a dict, got " +
                           type_of(group));
    }
    if (!dict.is(group)) {
      for (py::object& written : written_) written = py::object();
    }
    dict.mark(py::reinterpret_borrow<py::object>(group));
    reread_ = true;  // stays so if something below is refused
    betas_ = py::object();
    std::fill(object_, object_ + hypers, nullptr);
    const auto get = [&](PyObject* key) { return py::reinterpret_borrow<py::object>(item(group, key)); };
    const auto truth = [&](PyObject* key) {
      const py::object given = get(key);
      const int result = given ? PyObject_IsTrue(given.ptr()) : 0;
      if (result < 0) throw py::error_already_set();
      return result != 0;
    };
    const auto refuse = [&](const std::string& rule_text, const py::object& received) {
      throw py::type_error("group " + std::to_string(index) + ": " + rule_text + ", got " +
                           (received ? type_of(received) : "nothing"));
    };
    params = get(names().params);
    if (!params || !PyList_Check(params.ptr())) {
      const py::object received = std::move(params);
      params = py::list();
      refuse("params must be a list", received);
    }
    bool reread = false;
    if (has(rule, beta1)) {
      const py::object betas = get(names().betas);
      if (!betas || !(PyTuple_Check(betas.ptr()) || PyList_Check(betas.ptr())))
        refuse("betas must be two numbers", betas);
      const py::tuple pair(betas);  // a list may change while its numbers are read
      if (pair.size() != 2) refuse("betas must be two numbers", betas);
      reread = !PyTuple_CheckExact(betas.ptr());
      for (int b = 0; b < 2; ++b) {
        value[beta1 + b] = number(pair[static_cast<std::size_t>(b)], "betas", index, reread);
      }
    }
    if (rule == Rule::adam) {
      eps = number(get(names().eps), "eps", index, reread);
      amsgrad = truth(names().amsgrad);
      decoupled = truth(names().decoupled_weight_decay);
    }
    if (rule == Rule::sgd) {
      dampening = number(get(names().dampening), "dampening", index, reread);
      nesterov = truth(names().nesterov);
      value[momentum] = number(get(names().momentum), "momentum", index, reread);
    }
    value[weight_decay] = number(get(names().weight_decay), "weight_decay", index, reread);
    lr_tensor = truth(names().capturable) ? on_device(get(names().lr)) : py::object();
    value[lr] = lr_tensor ? 0 : number(get(names().lr), "lr", index, reread);
    reread |= static_cast<bool>(lr_tensor);
    maximize = truth(names().maximize);
    has_initial_lr = item(group, names().initial_lr) != nullptr;
    for (const int h : {lr, weight_decay, momentum}) {
      if (has(rule, h)) object_[h] = item(group, key_of(h));
    }
    const py::object pair = has(rule, beta1) ? get(names().betas) : py::object();
    if (pair && PyTuple_CheckExact(pair.ptr()) && PyTuple_GET_SIZE(pair.ptr()) == 2) {
      betas_ = pair;
      for (int b = 0; b < 2; ++b) object_[beta1 + b] = PyTuple_GET_ITEM(pair.ptr(), b);
    }
    reread_ = reread;
  }

  PyObject* object_[hypers] = {};     // borrowed from the dict; only valid while it is unchanged
  pybind11::object written_[hypers];  // the floats that `write` left there
  pybind11::object betas_;            // the tuple that holds them
  bool reread_ = false;  // a hyperparameter is no plain number: its value may change while the dict does not
};

}  // namespace fastsched
