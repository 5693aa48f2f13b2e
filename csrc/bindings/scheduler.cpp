// What a torch learning-rate scheduler does to one number of every parameter group, in one call: the
// arithmetic of each is torch's, in torch's order, so that the values are the same to the bit.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/group.hpp"
#include "cpu/row.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

// One key of every group, such as lr; of betas the element `place`. Every method returns false, and has
// changed nothing, where a group holds something else than a plain float there (a tensor, an int), or a list
// something else than plain numbers: torch's own code then does it.
class Column : public Zeroed {
public:
  Column(const py::str& key, int place) : key_(key), place_(place) {
    if (!PyUnicode_CheckExact(key.ptr())) throw py::type_error("Column: key must be a str");
  }

  // Whether the other methods would find plain floats.
  bool reads(const py::list& groups) {
    const Busy busy(busy_, running);
    return read(groups);
  }

  // value * factor
  bool scale(const py::list& groups, double factor) {
    const Busy busy(busy_, running);
    return read(groups) && write([&](std::size_t i) { return values_[i] * factor; });
  }

  // factor * (value - floor) + floor
  bool shrink(const py::list& groups, double factor, double floor) {
    const Busy busy(busy_, running);
    return read(groups) && write([&](std::size_t i) { return factor * (values_[i] - floor) + floor; });
  }

  // base * factor, with a factor per group or one for all
  bool product(const py::list& groups, const py::object& bases, const py::object& factors) {
    const Busy busy(busy_, running);
    std::vector<double> base, factor;
    if (!read(groups) || !numbers(bases, base)) return false;
    if (PyFloat_CheckExact(factors.ptr())) {
      factor.assign(groups_.size(), PyFloat_AS_DOUBLE(factors.ptr()));
    } else if (!numbers(factors, factor)) {
      return false;
    }
    return write([&](std::size_t i) { return base[i] * factor[i]; });
  }

  // floor + (base - floor) * height / 2
  bool anneal(const py::list& groups, const py::object& bases, double floor, double height) {
    const Busy busy(busy_, running);
    std::vector<double> base;
    if (!read(groups) || !numbers(bases, base)) return false;
    return write([&](std::size_t i) { return floor + (base[i] - floor) * height / 2; });
  }

  // low + (high - low) * x * factor, or from high down
  bool span(const py::list& groups, const py::object& lows, const py::object& highs, double x, double factor,
            bool down) {
    const Busy busy(busy_, running);
    std::vector<double> low, high;
    if (!read(groups) || !numbers(lows, low) || !numbers(highs, high)) return false;
    return write([&](std::size_t i) {
      const double height = (high[i] - low[i]) * x;
      return down ? high[i] - height * factor : low[i] + height * factor;
    });
  }

  // From what a group holds under `start` to what it holds under `end`: end + (start - end) / 2 * weight, or
  // (end - start) * weight + start.
  bool between(const py::list& groups, const py::str& start, const py::str& end, double weight, bool line) {
    const Busy busy(busy_, running);
    if (!read(groups)) return false;
    const std::vector<double>*from = held(start), *to = held(end);
    if (from == nullptr || to == nullptr) return false;
    return write([&](std::size_t i) {
      const double a = (*from)[i], b = (*to)[i];
      return line ? (b - a) * weight + a : b + (a - b) / 2.0 * weight;
    });
  }

  // The row's values at a step; NaN leaves a group as it is.
  bool follow(const py::list& groups, const RowObject& row, double step) {
    const Busy busy(busy_, running);
    if (!read(groups) || row.groups() != groups_.size() || !(step >= 0 && step <= 9007199254740992.0))
      return false;
    scratch_.resize(row.programs.size());
    row_values_.resize(row.groups());
    row.at(step, scratch_.data(), row_values_.data());
    return write([&](std::size_t i) { return std::isnan(row_values_[i]) ? values_[i] : row_values_[i]; });
  }

  // What the latest call that returned true left.
  py::list last() const {
    py::list list(last_.size());
    for (std::size_t i = 0; i < last_.size(); ++i) list[i] = last_[i];
    return list;
  }

private:
  static constexpr const char* running = "scheduler: already in a step; one at a time";

  // A group is recognised by its address and version alone: an owned reference would close a cycle through
  // the scheduler that Python's collector cannot see.
  struct Slot {
    PyObject* dict = nullptr;  // never followed: the group in the list is
    std::uint64_t version = 0;
    PyObject* object =
        nullptr;         // borrowed from the dict or the tuple; only valid while the dict is unchanged
    py::object tuple;    // of betas
    py::object written;  // the float that `write` left
  };

  bool read(const py::list& groups) {
    if (!key_) return false;  // made by __new__ alone
    const auto count = static_cast<std::size_t>(PyList_GET_SIZE(groups.ptr()));
    if (groups_.size() != count) columns_.clear();
    groups_.resize(count);
    values_.resize(count);
    owned_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      // Looking up a key may run code of another key's, which may do anything to the list.
      PyObject* group = PyList_GetItem(groups.ptr(), static_cast<Py_ssize_t>(i));
      if (group == nullptr) throw py::error_already_set();
      owned_[i] = py::reinterpret_borrow<py::object>(group);
      Slot& slot = groups_[i];
      const bool unchanged = slot.dict == group && slot.version != 0 && slot.version == dict_version(group);
      if (!unchanged) {
        columns_.clear();
        if (!find(slot, group)) return release(false);
      }
      values_[i] = PyFloat_AS_DOUBLE(slot.object);
    }
    return true;
  }

  bool find(Slot& slot, PyObject* group) const {
    slot.version = 0;
    if (!PyDict_Check(group)) return false;
    PyObject* object = item(group, key_.ptr());
    slot.tuple = py::object();
    if (place_ >= 0) {
      if (object == nullptr || !PyTuple_CheckExact(object) || PyTuple_GET_SIZE(object) <= place_)
        return false;
      slot.tuple = py::reinterpret_borrow<py::object>(object);
      object = PyTuple_GET_ITEM(object, place_);
    }
    if (object == nullptr || !PyFloat_CheckExact(object)) return false;
    slot.object = object;
    slot.dict = group;
    slot.version = dict_version(group);
    return true;
  }

  bool release(bool result) {
    owned_.clear();
    return result;
  }

  // Where only the dict (or its tuple, which only the dict holds) and this object hold the float, it is
  // overwritten, as Group::write does.
  template <class Value>
  bool write(Value value) {
    last_.resize(groups_.size());
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      Slot& slot = groups_[i];
      const double number = last_[i] = value(i);
      const bool unchanged = slot.version != 0 && slot.version == dict_version(owned_[i].ptr());
      const bool alone = unchanged && slot.object == slot.written.ptr() && Py_REFCNT(slot.object) == 2 &&
                         (place_ < 0 || Py_REFCNT(slot.tuple.ptr()) == 2);
      if (alone) {
        reinterpret_cast<PyFloatObject*>(slot.object)->ob_fval = number;
        continue;
      }
      slot.written = checked(PyFloat_FromDouble(number));
      py::object stored = slot.written;
      if (place_ >= 0) {
        const Py_ssize_t size = PyTuple_GET_SIZE(slot.tuple.ptr());
        stored = checked(PyTuple_New(size));
        for (Py_ssize_t k = 0; k < size; ++k) {
          PyObject* element = k == place_ ? slot.written.ptr() : PyTuple_GET_ITEM(slot.tuple.ptr(), k);
          Py_INCREF(element);
          PyTuple_SET_ITEM(stored.ptr(), k, element);
        }
        slot.tuple = stored;
      }
      if (PyDict_SetItem(owned_[i].ptr(), key_.ptr(), stored.ptr()) != 0) throw py::error_already_set();
      slot.object = slot.written.ptr();
      slot.version = unchanged ? dict_version(owned_[i].ptr()) : 0;
    }
    return release(true);
  }

  // A list of plain numbers, one per group.
  bool numbers(const py::object& list, std::vector<double>& out) const {
    if (!PyList_CheckExact(list.ptr()) ||
        static_cast<std::size_t>(PyList_GET_SIZE(list.ptr())) != groups_.size()) {
      return false;
    }
    out.resize(groups_.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!number(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), out[i])) return false;
    }
    return true;
  }

  // Runs no code: only exact types are read.
  static bool number(PyObject* object, double& out) {
    if (object == nullptr || !(PyFloat_CheckExact(object) || PyLong_CheckExact(object))) return false;
    out = PyFloat_AsDouble(object);
    if (out == -1 && PyErr_Occurred()) throw py::error_already_set();
    return true;
  }

  // A key of every group, read once while the groups stay as they are; null where one is no plain number.
  const std::vector<double>* held(const py::str& key) {
    const std::string name = key;
    const auto known = columns_.find(name);
    if (known != columns_.end()) return &known->second;
    std::vector<double> column(groups_.size());
    for (std::size_t i = 0; i < column.size(); ++i) {
      if (!number(item(owned_[i].ptr(), key.ptr()), column[i])) return nullptr;
    }
    return &columns_.emplace(name, std::move(column)).first->second;
  }

  py::str key_;
  int place_ = -1;
  bool busy_ = false;
  std::vector<Slot> groups_;
  std::vector<py::object> owned_;  // the groups, during a call
  std::vector<double> values_, last_, row_values_, scratch_;
  std::map<std::string, std::vector<double>> columns_;
};

}  // namespace

void bind_scheduler(py::module_& m) {
  py::class_<Column>(m, "Column", "One number of every parameter group, as a scheduler changes it.")
      .def(py::init<const py::str&, int>(), py::arg("key"), py::arg("place") = -1)
      .def("reads", &Column::reads, py::arg("groups"))
      .def("scale", &Column::scale, py::arg("groups"), py::arg("factor"))
      .def("shrink", &Column::shrink, py::arg("groups"), py::arg("factor"), py::arg("floor"))
      .def("product", &Column::product, py::arg("groups"), py::arg("bases"), py::arg("factors"))
      .def("anneal", &Column::anneal, py::arg("groups"), py::arg("bases"), py::arg("floor"),
           py::arg("height"))
      .def("span", &Column::span, py::arg("groups"), py::arg("lows"), py::arg("highs"), py::arg("x"),
           py::arg("factor"), py::arg("down"))
      .def("between", &Column::between, py::arg("groups"), py::arg("start"), py::arg("end"),
           py::arg("weight"), py::arg("line"))
      .def("follow", &Column::follow, py::arg("groups"), py::arg("row"), py::arg("step"))
      .def("last", &Column::last);
}

}  // namespace fastsched
