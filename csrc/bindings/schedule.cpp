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

bool is_step(double t) {
  return t >= 0.0 && t <= largest_step && static_cast<double>(static_cast<std::int64_t>(t)) == t;
}

bool is_count(double t) { return is_step(t) && t >= 1.0; }

// The beginning of a schedule without its first steps lies before step 0.
bool is_offset(double t) { return is_step(t) || is_step(-t); }

bool is_half_seed(double word) { return is_step(word) && word <= 4294967295.0; }

// A stride of exponentials is the length of a list.
bool is_stride(double r) {
  return is_count(r) && r <= 1024.0 && (static_cast<int>(r) & (static_cast<int>(r) - 1)) == 0;
}

bool is_positive(double r) { return r > 0.0 && std::isfinite(r); }

// Whether the stairs of any step can be counted.
bool is_stair(double r) { return is_positive(r) && std::isfinite(largest_step / r); }

// Whether the kernels can run an instruction: they end only where lengths are whole, and read within the
// samples.
bool is_sound(const Instruction& in, std::size_t samples) {
  const Curve& c = in.curve;
  const bool has_end = is_count(c.steps), endless = c.steps > largest_step && std::isinf(c.steps);
  switch (in.code) {
    case Code::sample:
      return has_end && is_step(c.p) && c.p + c.steps <= static_cast<double>(samples);
    case Code::noise:
      return (has_end || endless) && is_half_seed(c.p) && is_half_seed(c.q);
    case Code::cycle:
      return is_count(c.p) && (has_end || endless);
    case Code::pace:
      return is_positive(c.p) && is_positive(c.q) && is_step(c.r) && (has_end || endless);
    case Code::branch:
    case Code::multiply:
    case Code::add:
    case Code::scale:
    case Code::clip:
    case Code::resume:
      return true;
    case Code::linear:
    case Code::half_cosine:
      return has_end;
    case Code::one_cycle:
      return has_end && c.q >= 0.0 && c.q <= c.steps;
    case Code::restarts:
      return (has_end || endless) && is_count(c.p) && is_count(c.q);
    case Code::triangle:
      return endless && is_count(c.p) && is_count(c.q) && is_count(c.p + c.q);
    case Code::damped:
      return endless && is_count(c.p) && is_count(c.q) && is_count(c.p + c.q) && is_stride(c.v);
    case Code::exponential:
      return (has_end || endless) && is_stride(c.r);
    case Code::staircase:
      return endless && is_stair(c.r) && is_stride(c.s);
    case Code::inverse_staircase:
      return endless && is_stair(c.r);
    default:
      return has_end || endless;
  }
}

// What is wrong with a program; empty if it runs forward, within its stacks, and leaves one value.
std::string find_fault(const Source& source) {
  const std::vector<Instruction>& code = source.code;
  const auto size = static_cast<std::int64_t>(code.size());
  if (size == 0 || size > INT32_MAX) return "it has no instructions, or too many";
  struct State {  // before an instruction
    int depth, cycles;
  };
  constexpr int unreached = -1;
  std::vector<State> states(code.size() + 1, State{unreached, 0});
  states[0] = {0, 0};
  const auto reach = [&](std::int64_t i, State state) {
    State& known = states[static_cast<std::size_t>(i)];
    const bool agrees =
        known.depth == unreached || (known.depth == state.depth && known.cycles == state.cycles);
    known = state;
    return agrees;
  };
  for (std::int64_t i = 0; i < size; ++i) {
    const Instruction& in = code[static_cast<std::size_t>(i)];
    State state = states[static_cast<std::size_t>(i)];
    if (state.depth == unreached) return "an instruction is never reached";
    if (in.code < Code{} || in.code >= Code::count) return "an instruction has an unknown code";
    if (in.next <= i || in.next > size) return "an instruction does not lead forward";
    // Between two whole edges a table always advances; a fractional one would stop it for good.
    if (!is_offset(in.offset)) return "an offset is no step";
    if (!is_sound(in, source.samples.size())) return "an instruction's numbers are out of range";
    int needed = 0, left = 1;
    switch (in.code) {
      case Code::multiply:
      case Code::add:
        needed = 2;
        break;
      case Code::scale:
      case Code::clip:
      case Code::noise:
        needed = 1;
        break;
      case Code::branch:
      case Code::resume:
      case Code::cycle:
      case Code::pace:
        left = 0;
        break;
      default:
        break;
    }
    if (state.depth < needed) return "an instruction lacks an operand";
    state.depth += left - needed;
    const bool keeps = in.code == Code::cycle || in.code == Code::pace;
    state.cycles += keeps ? 1 : in.code == Code::resume ? -1 : 0;
    if (state.depth > stack_size) return "it needs too deep a stack";
    if (state.cycles < 0 || state.cycles > most_cycles) return "its cycles do not nest";
    if (in.code == Code::branch && !reach(i + 1, state)) return "the two sides of a branch disagree";
    if (!reach(in.next, state)) return "the two sides of a branch disagree";
  }
  const State last = states[code.size()];
  return last.depth == 1 && last.cycles == 0 ? "" : "it does not leave one value";
}

template <class T>
std::vector<T> copied(const py::object& source, const char* name);

SharedSource read_source(const py::object& instructions, const py::object& samples) {
  if (!py::isinstance<py::array>(instructions))
    throw py::type_error("Program: pass the arrays that compile_program() made");
  const auto array = py::reinterpret_borrow<py::array>(instructions);
  if (array.ndim() != 1 || array.itemsize() != sizeof(Instruction) || array.dtype().kind() != 'V' ||
      !(array.flags() & py::array::c_style)) {
    throw py::value_error("Program: pass the arrays that compile_program() made");
  }
  auto source = std::make_shared<Source>();
  source->code.resize(static_cast<std::size_t>(array.size()));
  if (array.size() > 0) {
    std::memcpy(static_cast<void*>(source->code.data()), array.data(),
                source->code.size() * sizeof(Instruction));
  }
  source->samples = copied<double>(samples, "samples");
  const std::string fault = find_fault(*source);
  if (!fault.empty()) {
    throw py::value_error("Program: " + fault + "; pass the arrays that compile_program() made");
  }
  return source;
}

struct ProgramObject : Zeroed {
  explicit ProgramObject(SharedSource source) : source(std::move(source)) {}
  SharedSource source;  // null where no constructor ran

  const Source& get() const {
    if (source == nullptr) throw py::value_error("Program: not initialised; pass the arrays to Program()");
    return *source;
  }
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

std::vector<SharedSource> read_programs(const py::object& source) {
  if (!PyList_CheckExact(source.ptr())) throw py::type_error("programs must be a list of Program");
  std::vector<SharedSource> programs;
  for (const py::handle item : py::reinterpret_borrow<py::list>(source)) {
    if (!py::isinstance<ProgramObject>(item)) throw py::type_error("programs must be a list of Program");
    const auto& program = item.cast<const ProgramObject&>();
    program.get();
    programs.push_back(program.source);
  }
  return programs;
}

RowObject read_row(const py::object& programs, const py::object& column, const py::object& scale) {
  RowObject row;
  row.programs = read_programs(programs);
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
  const SharedSource kept = program.source;  // whatever happens to `program` meanwhile
  const Program code = program.get().program();
  py::gil_scoped_release release;
  kernel(code, data, count, result);
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
  for (const SharedSource& source : row.programs) programs.push_back(source->program());
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

// ---- All hyperparameters of a plan at one step. ----

// A step that is an int or a float of Python, and in range; anything else goes to Python.
bool plain_step(PyObject* step, double& t) {
  t = -1.0;
  if (PyFloat_CheckExact(step)) {
    t = PyFloat_AS_DOUBLE(step);
  } else if (PyLong_CheckExact(step)) {
    int overflow = 0;
    const long long whole = PyLong_AsLongLongAndOverflow(step, &overflow);
    // Compared as an integer: 2**53 + 1 would round to an allowed step.
    if (overflow == 0 && whole >= 0 && whole <= static_cast<long long>(largest_step))
      t = static_cast<double>(whole);
  }
  return t >= 0.0 && t <= largest_step;
}

struct GridObject : Zeroed {
  std::vector<py::object> names;
  std::vector<py::object> rows;  // keep `Row`s alive
  std::vector<double> scratch;
  std::vector<double*> places;
};

GridObject read_grid(const py::object& source) {
  if (!PyDict_CheckExact(source.ptr())) throw py::type_error("rows must be a dict of Row");
  GridObject grid;
  std::size_t most = 0;
  for (const auto& [name, row] : py::reinterpret_borrow<py::dict>(source)) {
    if (!py::isinstance<RowObject>(row)) throw py::type_error("rows must be a dict of Row");
    grid.names.push_back(py::reinterpret_borrow<py::object>(name));
    grid.rows.push_back(py::reinterpret_borrow<py::object>(row));
    most = std::max(most, row.cast<const RowObject&>().programs.size());
  }
  grid.scratch.resize(most);
  return grid;
}

// The memory of a plain array of `size` doubles; null if it is something else.
double* doubles_of(PyObject* object, std::size_t size) {
  if (object == nullptr || !py::isinstance<py::array>(object)) return nullptr;
  auto array = py::reinterpret_borrow<py::array>(object);
  constexpr int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ |
                         py::detail::npy_api::NPY_ARRAY_ALIGNED_ | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  if (array.ndim() != 1 || static_cast<std::size_t>(array.size()) != size ||
      (array.flags() & wanted) != wanted || !py::isinstance<py::array_t<double>>(array)) {
    return nullptr;
  }
  return static_cast<double*>(array.mutable_data());
}

// False, with nothing written, where the step or the dict is not as it should be: Python says what is wrong.
bool grid_at(GridObject& grid, const py::object& step, const py::object& out) {
  double t = -1.0;
  if (!plain_step(step.ptr(), t) || !PyDict_CheckExact(out.ptr()) ||
      static_cast<std::size_t>(PyDict_GET_SIZE(out.ptr())) != grid.names.size()) {
    return false;
  }
  std::vector<double*>& places = grid.places;
  places.clear();
  for (std::size_t i = 0; i < grid.names.size(); ++i) {
    PyObject* const array = PyDict_GetItemWithError(out.ptr(), grid.names[i].ptr());
    if (array == nullptr && PyErr_Occurred()) throw py::error_already_set();
    places.push_back(doubles_of(array, grid.rows[i].cast<const RowObject&>().groups()));
    if (places.back() == nullptr) return false;
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    grid.rows[i].cast<const RowObject&>().at(t, grid.scratch.data(), places[i]);
  }
  return true;
}

// ---- The base class of fastsched.Schedule: a call with a plain number is answered here, without a Python
// frame. ----

struct Evaluator {
  PyObject_HEAD SharedSource* source;  // null until the program is bound
};

bool native_serves = true;  // false: every call goes to Python, which asks the backend in use

void evaluator_dealloc(PyObject* self) {
  PyTypeObject* const type = Py_TYPE(self);
  delete reinterpret_cast<Evaluator*>(self)->source;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* evaluator_call(PyObject* self, PyObject* args, PyObject* kwargs) {
  const SharedSource* const source = reinterpret_cast<Evaluator*>(self)->source;
  if (source != nullptr && native_serves && kwargs == nullptr && PyTuple_GET_SIZE(args) == 1) {
    double t;
    if (plain_step(PyTuple_GET_ITEM(args, 0), t))
      return PyFloat_FromDouble(instruction_set().table.value((*source)->program(), t));
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
  if (evaluator->source == nullptr) {
    try {
      const auto& bound = py::handle(program).cast<const ProgramObject&>();
      bound.get();
      evaluator->source = new SharedSource(bound.source);
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
      .def(py::init([](const py::object& instructions, const py::object& samples) {
             return ProgramObject(read_source(instructions, samples));
           }),
           py::arg("instructions"), py::arg("samples"))
      .def("__len__", [](const ProgramObject& self) { return self.get().code.size(); })
      .def(
          "value",
          [](const ProgramObject& self, double step) {
            return instruction_set().table.value(self.get().program(), checked_step(step));
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

  py::class_<GridObject>(m, "Grid", "All hyperparameters of a plan: names and rows.")
      .def(py::init(&read_grid), py::arg("rows"))
      .def("at", &grid_at, py::arg("step"), py::arg("out"),
           "Fills a dict of arrays with the values at one step; false, and nothing changed, if it cannot.");

  PyObject* const evaluator = PyType_FromSpec(&evaluator_spec);
  if (evaluator == nullptr) throw py::error_already_set();
  m.attr("Evaluator") = py::reinterpret_steal<py::object>(evaluator);
  m.def("serve", [](bool on) { native_serves = on; }, py::arg("on"), "Whether calls are answered natively.");
  m.def(
      "power", [](double x, double y) { return power(x, y); }, py::arg("x"), py::arg("y"),
      "x**y for x >= 0, with the same bits on every machine.");
}

}  // namespace fastsched
