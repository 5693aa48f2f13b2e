// Programs, rows and tables for Python. Everything is checked here before a kernel sees it: whatever Python
// passes, the kernels may trust what they get. Arguments come as plain objects: pybind11's own TypeError
// would print their contents.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "bindings/bindings.hpp"

namespace py = pybind11;

namespace fastsched {
namespace {

using Code_vector = std::vector<Instruction>;

bool is_step(double t) {
  return t >= 0.0 && t <= largest_step && static_cast<double>(static_cast<std::int64_t>(t)) == t;
}

bool is_length(const Instruction& in) {
  const double steps = in.curve.steps;
  return (steps >= 1.0 && is_step(steps)) ||
         (steps > largest_step && std::isinf(steps) && !has_halves(in.code));
}

// What is wrong with a program; empty if it runs forward, within its stack, and leaves one value.
std::string find_fault(const Code_vector& code) {
  const auto size = static_cast<std::int64_t>(code.size());
  if (size == 0 || size > INT32_MAX) return "it has no instructions, or too many";
  constexpr int unreached = -1;
  std::vector<int> depth(code.size() + 1, unreached);  // of the stack before each instruction
  depth[0] = 0;
  const auto reach = [&](std::int64_t i, int d) {
    int& known = depth[static_cast<std::size_t>(i)];
    const bool agrees = known == unreached || known == d;
    known = d;
    return agrees;
  };
  for (std::int64_t i = 0; i < size; ++i) {
    const Instruction& in = code[static_cast<std::size_t>(i)];
    int d = depth[static_cast<std::size_t>(i)];
    if (d == unreached) return "an instruction is never reached";
    if (in.code < Code{} || in.code >= Code::count) return "an instruction has an unknown code";
    if (in.next <= i || in.next > size) return "an instruction does not lead forward";
    // Between two whole edges a table always advances; a fractional one would stop it for good.
    if (!is_step(in.offset)) return "an offset is no step";
    int needed = 0, left = 1;
    if (in.code == Code::multiply || in.code == Code::add) needed = 2;
    if (in.code == Code::scale) needed = 1;
    if (in.code == Code::branch) left = 0;
    if (d < needed) return "an instruction lacks an operand";
    d += left - needed;
    if (d > stack_size) return "it needs too deep a stack";
    if (in.code == Code::branch && !reach(i + 1, d)) return "the two sides of a branch disagree";
    if (in.code < Code::branch && !is_length(in)) return "a curve has no length";
    if (!reach(in.next, d)) return "the two sides of a branch disagree";
  }
  return depth[code.size()] == 1 ? "" : "it does not leave one value";
}

Code_vector read_program(const py::object& source) {
  if (!py::isinstance<py::array>(source)) throw py::type_error("Program: pass the array that compile() made");
  const auto array = py::reinterpret_borrow<py::array>(source);
  if (array.ndim() != 1 || array.itemsize() != sizeof(Instruction) || array.dtype().kind() != 'V' ||
      !(array.flags() & py::array::c_style)) {
    throw py::value_error("Program: pass the array that compile() made");
  }
  Code_vector code(static_cast<std::size_t>(array.size()));
  if (!code.empty())
    std::memcpy(static_cast<void*>(code.data()), array.data(), code.size() * sizeof(Instruction));
  const std::string fault = find_fault(code);
  if (!fault.empty()) throw py::value_error("Program: " + fault + "; pass the array that compile() made");
  return code;
}

Program view(const Code_vector& code) { return {code.data(), static_cast<std::int64_t>(code.size())}; }

struct ProgramObject : Zeroed {
  explicit ProgramObject(Code_vector instructions) : code(std::move(instructions)) {}
  Code_vector code;
};

double checked_step(double step) {
  if (step >= 0.0 && step <= largest_step) return step;
  throw py::value_error("step must be from 0 to 2**53, got " + std::to_string(step));
}

template <class T>
py::array array_of(const py::object& source, const char* name, int dimensions) {
  if (!py::isinstance<py::array>(source)) throw py::type_error(std::string(name) + " must be a numpy array");
  const auto array = py::reinterpret_borrow<py::array>(source);
  const auto dtype = array.dtype();
  if (!dtype.equal(py::dtype::of<T>()) || array.ndim() != dimensions) {
    throw py::type_error(std::string(name) + " must be a numpy array of dtype " +
                         std::string(py::str(py::dtype::of<T>())) + " with " + std::to_string(dimensions) +
                         " dimension(s)");
  }
  if (!(array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) {
    throw py::value_error(std::string(name) + " must be aligned");
  }
  return array;
}

template <class T>
py::array contiguous(const py::object& source, const char* name) {
  const py::array array = array_of<T>(source, name, 1);
  if (array.size() > 0 && !(array.flags() & py::array::c_style)) {
    throw py::value_error(std::string(name) + " must be contiguous");
  }
  return array;
}

void require_writable(const py::array& array, const char* name) {
  if (!array.writeable()) throw py::value_error(std::string(name) + " must be writable");
}

template <class T>
std::vector<T> copied(const py::object& source, const char* name) {
  const py::array array = contiguous<T>(source, name);
  const T* const data = static_cast<const T*>(array.data());
  return std::vector<T>(data, data + array.size());
}

std::vector<const Code_vector*> read_programs(const py::object& source) {
  if (!PyList_CheckExact(source.ptr())) throw py::type_error("programs must be a list of Program");
  std::vector<const Code_vector*> programs;
  for (const py::handle item : py::reinterpret_borrow<py::list>(source)) {
    if (!py::isinstance<ProgramObject>(item)) throw py::type_error("programs must be a list of Program");
    programs.push_back(&item.cast<const ProgramObject&>().code);
  }
  return programs;
}

RowObject read_row(const py::object& programs, const py::object& column, const py::object& scale) {
  RowObject row;
  for (const Code_vector* code : read_programs(programs)) row.programs.push_back(*code);
  row.column = copied<std::int32_t>(column, "column");
  row.scale = copied<double>(scale, "scale");
  if (row.column.size() != row.scale.size())
    throw py::value_error("column and scale must have one entry per group");
  const auto count = static_cast<std::int64_t>(row.programs.size());
  for (const std::int32_t c : row.column) {
    if (c < -1 || c >= count) throw py::value_error("column must name a program, or be -1");
  }
  return row;
}

void fill_values(const ProgramObject& program, const py::object& steps, const py::object& out) {
  const py::array from = contiguous<double>(steps, "steps");
  py::array to = contiguous<double>(out, "out");
  require_writable(to, "out");
  if (from.size() != to.size()) throw py::value_error("steps and out must have the same length");
  const auto* const data = static_cast<const double*>(from.data());
  std::for_each(data, data + from.size(), checked_step);
  auto* const result = static_cast<double*>(to.mutable_data());
  const auto kernel = instruction_set().table.values;
  const std::int64_t count = from.size();
  py::gil_scoped_release release;
  kernel(view(program.code), data, count, result);
}

template <class T>
void fill_table_as(TableRequest request, const py::object& out, void (*kernel)(const TableRequest&, T*)) {
  py::array to = array_of<T>(out, "out", 2);
  require_writable(to, "out");
  const auto item = static_cast<py::ssize_t>(sizeof(T));
  if (to.shape(1) != request.groups) throw py::value_error("out must have one column per group");
  if (to.size() == 0) return;
  if (to.strides(0) % item != 0 || to.strides(1) % item != 0) {
    throw py::value_error("out's strides must be multiples of its item size");
  }
  request.steps = to.shape(0);
  request.row_stride = to.strides(0) / item;
  request.column_stride = to.strides(1) / item;
  constexpr auto largest = static_cast<std::int64_t>(largest_step);
  if (request.start < 0 || request.start > largest || request.steps - 1 > largest - request.start) {
    throw py::value_error("steps must be from 0 to 2**53");
  }
  T* const data = static_cast<T*>(to.mutable_data());
  py::gil_scoped_release release;
  kernel(request, data);
}

void fill_table(const RowObject& row, std::int64_t start, const py::object& out) {
  std::vector<Program> programs;
  for (const Code_vector& code : row.programs) programs.push_back(view(code));
  const TableRequest request = {programs.data(),
                                static_cast<std::int64_t>(programs.size()),
                                row.column.data(),
                                row.scale.data(),
                                static_cast<std::int64_t>(row.groups()),
                                start,
                                0,
                                0,
                                0};
  if (py::isinstance<py::array>(out) && py::reinterpret_borrow<py::array>(out).itemsize() == sizeof(float)) {
    return fill_table_as<float>(request, out, instruction_set().table.table_f32);
  }
  fill_table_as<double>(request, out, instruction_set().table.table_f64);
}

void row_at(const RowObject& row, double step, const py::object& out) {
  py::array to = contiguous<double>(out, "out");
  require_writable(to, "out");
  if (static_cast<std::size_t>(to.size()) != row.groups())
    throw py::value_error("out must have one entry per group");
  std::vector<double> scratch(row.programs.size());
  row.at(checked_step(step), scratch.data(), static_cast<double*>(to.mutable_data()));
}

// ---- The base class of fastsched.Schedule: a call with a plain number is answered here, without a Python
// frame. ----

struct Evaluator {
  PyObject_HEAD Code_vector* code;  // null until the program is bound
};

bool native_serves = true;  // false: every call goes to Python, which asks the backend in use

void evaluator_dealloc(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  delete reinterpret_cast<Evaluator*>(self)->code;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* evaluator_call(PyObject* self, PyObject* args, PyObject* kwargs) {
  const Code_vector* const code = reinterpret_cast<Evaluator*>(self)->code;
  if (code != nullptr && native_serves && kwargs == nullptr && PyTuple_GET_SIZE(args) == 1) {
    PyObject* const step = PyTuple_GET_ITEM(args, 0);
    double t = -1.0;
    if (PyFloat_CheckExact(step)) {
      t = PyFloat_AS_DOUBLE(step);
    } else if (PyLong_CheckExact(step)) {
      int overflow = 0;
      const long long whole = PyLong_AsLongLongAndOverflow(step, &overflow);
      // Compared as an integer: 2**53 + 1 would round to an allowed step.
      if (overflow == 0 && whole >= 0 && whole <= static_cast<long long>(largest_step))
        t = static_cast<double>(whole);
    }
    if (t >= 0.0 && t <= largest_step)
      return PyFloat_FromDouble(instruction_set().table.value(view(*code), t));
  }
  PyObject* const slow = PyObject_GetAttrString(self, "_evaluate");
  if (slow == nullptr) return nullptr;
  PyObject* const result = PyObject_Call(slow, args, kwargs);
  Py_DECREF(slow);
  return result;
}

PyObject* evaluator_bind(PyObject* self, PyObject* program) {
  auto* const evaluator = reinterpret_cast<Evaluator*>(self);
  if (!py::isinstance<ProgramObject>(program)) {
    PyErr_SetString(PyExc_TypeError, "_bind: pass a Program");
    return nullptr;
  }
  // Bound once: a call in another thread may be reading it.
  if (evaluator->code == nullptr) {
    try {
      evaluator->code = new Code_vector(py::handle(program).cast<const ProgramObject&>().code);
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return nullptr;
    }
  }
  Py_RETURN_NONE;
}

PyMethodDef evaluator_methods[] = {
    {"_bind", evaluator_bind, METH_O, "Gives the compiled program that calls then run."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot evaluator_slots[] = {
    {Py_tp_doc, const_cast<char*>("Answers a call with a number natively; the base of Schedule.")},
    {Py_tp_dealloc, reinterpret_cast<void*>(evaluator_dealloc)},
    {Py_tp_call, reinterpret_cast<void*>(evaluator_call)},
    {Py_tp_methods, evaluator_methods},
    {0, nullptr}};

PyType_Spec evaluator_spec = {"fastsched._core.Evaluator", sizeof(Evaluator), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, evaluator_slots};

}  // namespace

void bind_schedule(py::module_& m) {
  py::list names;
#define FASTSCHED_APPEND(name) names.append(#name);
  FASTSCHED_CURVES(FASTSCHED_APPEND)
  FASTSCHED_OPERATIONS(FASTSCHED_APPEND)
#undef FASTSCHED_APPEND
  m.attr("codes") = py::tuple(names);

  py::class_<ProgramObject>(m, "Program", "A schedule compiled to instructions.")
      .def(py::init([](const py::object& array) { return ProgramObject(read_program(array)); }),
           py::arg("array"))
      .def("__len__", [](const ProgramObject& self) { return self.code.size(); })
      .def(
          "value",
          [](const ProgramObject& self, double step) {
            return instruction_set().table.value(view(self.code), checked_step(step));
          },
          py::arg("step"), "The value at one step.")
      .def("values", &fill_values, py::arg("steps"), py::arg("out"), "The values at an array of steps.");

  py::class_<RowObject>(
      m, "Row", "One hyperparameter of all groups: distinct programs, a column and a scale per group.")
      .def(py::init(&read_row), py::arg("programs"), py::arg("column"), py::arg("scale"))
      .def("__len__", &Row::groups)
      .def("at", &row_at, py::arg("step"), py::arg("out"), "The value of every group at one step.")
      .def("table", &fill_table, py::arg("start"), py::arg("out"),
           "The values of every group from a step on.");

  PyObject* const evaluator = PyType_FromSpec(&evaluator_spec);
  if (evaluator == nullptr) throw py::error_already_set();
  m.attr("Evaluator") = py::reinterpret_steal<py::object>(evaluator);
  m.def("serve", [](bool on) { native_serves = on; }, py::arg("on"), "Whether calls are answered natively.");
  m.def(
      "power", [](double x, double y) { return power(x, y); }, py::arg("x"), py::arg("y"),
      "x**y for x >= 0, with the same bits on every machine.");
}

}  // namespace fastsched
