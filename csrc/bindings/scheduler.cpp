// What a torch learning-rate scheduler does to one number of every parameter group, in one call: the
// arithmetic of each is torch's, in torch's order, so that the values are the same to the bit.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
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
// changed nothing, where a group holds something else than a plain float there (a tensor, an int): torch's
// own code then does it.
class Column : public Zeroed {
public:
  Column(const py::str& key, int place) : key_(key), place_(place) {}

  // value * factor
  bool scale(const py::list& groups, double factor) {
    return read(groups) && write([&](std::size_t i) { return values_[i] * factor; });
  }

  // factor * (value - floor) + floor
  bool shrink(const py::list& groups, double factor, double floor) {
    return read(groups) && write([&](std::size_t i) { return factor * (values_[i] - floor) + floor; });
  }

  // base * factor, with a factor per group or one for all
  bool product(const py::list& groups, const py::list& bases, const py::object& factors) {
    std::vector<double> base, factor;
    if (!read(groups) || !numbers(bases, base)) return false;
    if (PyFloat_CheckExact(factors.ptr())) {
      factor.assign(groups_.size(), PyFloat_AS_DOUBLE(factors.ptr()));
    } else if (!PyList_CheckExact(factors.ptr()) ||
               !numbers(py::reinterpret_borrow<py::list>(factors), factor)) {
      return false;
    }
    return write([&](std::size_t i) { return base[i] * factor[i]; });
  }

  // floor + (base - floor) * height / 2
  bool anneal(const py::list& groups, const py::list& bases, double floor, double height) {
    std::vector<double> base;
    if (!read(groups) || !numbers(bases, base)) return false;
    return write([&](std::size_t i) { return floor + (base[i] - floor) * height / 2; });
  }

  // low + (high - low) * x * factor, or from high down
  bool span(const py::list& groups, const py::list& lows, const py::list& highs, double x, double factor,
            bool down) {
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
    if (!read(groups)) return false;
    const std::vector<double>*from = held(start), *to = held(end);
    if (from == nullptr || to == nullptr) return false;
    return write([&](std::size_t i) {
      const double a = (*from)[i], b = (*to)[i];
      return line ? (b - a) * weight + a : b + (a - b) / 2.0 * weight;
    });
  }

  // The row's values at a step.
  bool follow(const py::list& groups, const RowObject& row, double step) {
    if (!read(groups) || row.groups() != groups_.size()) return false;
    scratch_.resize(row.programs.size());
    row_values_.resize(row.groups());
    row.at(step, scratch_.data(), row_values_.data());
    return write([&](std::size_t i) { return std::isnan(row_values_[i]) ? values_[i] : row_values_[i]; });
  }

  // What the latest of these calls left.
  py::list last() const {
    py::list list(values_.size());
    for (std::size_t i = 0; i < values_.size(); ++i) list[i] = values_[i];
    return list;
  }

private:
  struct Slot {
    Watched dict;
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
    for (std::size_t i = 0; i < count; ++i) {
      Slot& slot = groups_[i];
      PyObject* group = PyList_GET_ITEM(groups.ptr(), static_cast<Py_ssize_t>(i));
      if (!slot.dict.is(group) || !slot.dict.unchanged()) {
        columns_.clear();
        if (!find(slot, group)) return false;
      }
      values_[i] = PyFloat_AS_DOUBLE(slot.object);
    }
    return true;
  }

  bool find(Slot& slot, PyObject* group) const {
    slot.dict.forget();
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
    slot.dict.mark(py::reinterpret_borrow<py::object>(group));
    return true;
  }

  // Where only the dict (or its tuple, which only the dict holds) and this object hold the float, it is
  // overwritten, as Group::write does.
  template <class Value>
  bool write(Value value) {
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      Slot& slot = groups_[i];
      const double number = values_[i] = value(i);
      const bool alone = slot.object == slot.written.ptr() && Py_REFCNT(slot.object) == 2 &&
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
      if (PyDict_SetItem(slot.dict.get(), key_.ptr(), stored.ptr()) != 0) throw py::error_already_set();
      slot.object = slot.written.ptr();
      slot.dict.mark();
    }
    return true;
  }

  // A list of plain numbers, one per group.
  bool numbers(const py::list& list, std::vector<double>& out) const {
    if (static_cast<std::size_t>(PyList_GET_SIZE(list.ptr())) != groups_.size()) return false;
    out.resize(groups_.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!number(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), out[i])) return false;
    }
    return true;
  }

  static bool number(PyObject* object, double& out) {
    if (object == nullptr || !(PyFloat_CheckExact(object) || PyLong_CheckExact(object))) return false;
    out = PyFloat_AsDouble(object);
    if (out == -1 && PyErr_Occurred()) throw py::error_already_set();
    return true;
  }

  // A key of every group, read once while the groups stay as they are; null where one is no plain number.
  const std::vector<double>* held(const py::str& key) {
    const std::string name = key;
    for (const auto& [known, column] : columns_) {
      if (known == name) return column.empty() && !groups_.empty() ? nullptr : &column;
    }
    std::vector<double> column(groups_.size());
    for (std::size_t i = 0; i < column.size(); ++i) {
      if (!number(item(groups_[i].dict.get(), key.ptr()), column[i])) return nullptr;
    }
    columns_.reserve(8);  // what was handed out stays where it is
    columns_.emplace_back(name, std::move(column));
    return &columns_.back().second;
  }

  py::str key_;
  int place_ = -1;
  std::vector<Slot> groups_;
  std::vector<double> values_, row_values_, scratch_;
  std::vector<std::pair<std::string, std::vector<double>>> columns_;
};

}  // namespace

void bind_scheduler(py::module_& m) {
  py::class_<Column>(m, "Column", "One number of every parameter group, as a scheduler changes it.")
      .def(py::init<const py::str&, int>(), py::arg("key"), py::arg("place") = -1)
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
