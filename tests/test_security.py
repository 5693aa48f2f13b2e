"""What the package never does with data of others, by its own source; and where it looks for libraries."""

import ast
import re
from pathlib import Path

import pytest
from support import output

import fastsched as fs
from fastsched import _nvrtc

PACKAGE = Path(fs.__file__).parent
NATIVE = Path(__file__).parent.parent / "csrc"

# Whatever turns data into code, or reads a format that does.
RUNS_CODE = {
    "eval": "builtins",
    "exec": "builtins",
    "compile": "builtins",
    "__import__": "builtins",
    "system": "os",
    "popen": "os",
}
RUNS_CODE_ANYWHERE = {"exec_module", "load_module", "run_path", "run_module"}
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
# The functions whose safety is an argument's: its name, and the value that makes them safe.
SAFE_WITH = {
    ("torch", "load"): ("weights_only", True),
    ("np", "load"): ("allow_pickle", False),
    ("numpy", "load"): ("allow_pickle", False),
    ("yaml", "load"): ("Loader", None),  # never: yaml.safe_load
    ("yaml", "unsafe_load"): ("Loader", None),
    ("yaml", "full_load"): ("Loader", None),
}
ALLOWED = {
    ("cli.py", "_function", "exec_module"): "the user names a script of his own on the command line, as for python",
    ("_numba.py", "_compiled_curves", "exec_module"): "the package's own curves.py, a second time",
}
# Where a name that is computed is imported, and what it can be.
IMPORTS = {
    ("__init__.py", "__getattr__"): "a module of the package's own table",
    ("compat/__init__.py", "__getattr__"): "one of SYSTEMS",
    ("compat/__init__.py", "build"): "one of SYSTEMS",
    ("spec.py", "_peer"): "one of SYSTEMS",
    ("cli.py", "_function"): "the user names a module of his own on the command line, as for python -m",
    ("explore/knobs.py", "_call"): "one of SYSTEMS",
}
LOADS_LIBRARIES = {"CDLL", "PyDLL", "WinDLL", "OleDLL", "LoadLibrary", "find_library", "dlopen"}
LIBRARIES = {("_nvrtc.py", "__init__", "CDLL"): "an absolute path, FASTSCHED_NVRTC, or NVRTC's own name; see below"}


class Finder(ast.NodeVisitor):
    """Collects (function, what) for every call that could run or load what it should not."""

    def __init__(self):
        self.functions = ["<module>"]
        self.risky, self.imports, self.libraries = [], [], []

    def visit_FunctionDef(self, node):
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Import(self, node):
        self._imported(alias.name for alias in node.names)

    def visit_ImportFrom(self, node):
        self._imported([node.module or ""])
        if node.module in ("os", "runpy", "builtins"):
            self._imported_names(alias.name for alias in node.names)

    def visit_Call(self, node):
        name, owner = _called(node.func)
        where = self.functions[-1]
        by_itself = isinstance(node.func, ast.Name)
        if name in RUNS_CODE_ANYWHERE or (name in RUNS_CODE and (by_itself or owner == RUNS_CODE[name])):
            self.risky.append((where, name))
        if (owner, name) in SAFE_WITH and not _is_safe(node, *SAFE_WITH[owner, name]):
            self.risky.append((where, f"{owner}.{name}"))
        if any(word.arg == "shell" for word in node.keywords):
            self.risky.append((where, "shell"))
        if any(word.arg == "allow_pickle" and not _is(word.value, False) for word in node.keywords):
            self.risky.append((where, "allow_pickle"))
        if name == "import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
            self.imports.append(where)
        if name in LOADS_LIBRARIES:
            self.libraries.append((where, name))
        self.generic_visit(node)

    def _imported(self, modules):
        self.risky += [(self.functions[-1], name) for name in modules if name.partition(".")[0] in UNPICKLES]

    def _imported_names(self, names):
        self.risky += [(self.functions[-1], name) for name in names if name in RUNS_CODE]


def _called(function):
    """The name that is called, and that of what it is an attribute of."""
    if isinstance(function, ast.Attribute):
        owner = function.value
        return function.attr, owner.id if isinstance(owner, ast.Name) else ""
    return (function.id if isinstance(function, ast.Name) else ""), ""


def _is(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def _is_safe(call, argument, value):
    return any(word.arg == argument and _is(word.value, value) for word in call.keywords) and value is not None


def found_in(source):
    finder = Finder()
    finder.visit(ast.parse(source))
    return finder


@pytest.fixture(scope="module")
def package():
    return {
        file.relative_to(PACKAGE).as_posix(): found_in(file.read_text(encoding="utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def test_no_data_is_run_or_unpickled_but_in_places_with_a_reason(package):
    found = {(file, *call) for file, finder in package.items() for call in finder.risky}
    assert found == set(ALLOWED)  # equal, so that no reason outlives its place


def test_no_module_is_imported_by_a_computed_name_but_in_places_with_a_reason(package):
    assert {(file, where) for file, finder in package.items() for where in finder.imports} == set(IMPORTS)


def test_no_library_is_loaded_but_in_places_with_a_reason(package):
    assert {(file, *call) for file, finder in package.items() for call in finder.libraries} == set(LIBRARIES)


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "def f(text):\n    exec(text)",
        "builtins.eval(text)",
        "compile(text, '', 'exec')",
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill.source",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.lib.format.read_array(file, allow_pickle=flag)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "os.system(text)",
        "from os import system",
        "subprocess.run(text, shell=True)",
        "__import__(name)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert found_in(source).risky


@pytest.mark.parametrize(
    "source",
    [
        "re.compile(text)",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "json.loads(text)",
    ],
)
def test_the_search_passes_what_is_safe(source):
    assert not found_in(source).risky


@pytest.mark.parametrize("source", ["import_module(name)", "importlib.import_module(f'a.{name}')"])
def test_the_search_finds_imports_by_a_computed_name(source):
    assert found_in(source).imports == ["<module>"]


# ---- what is named in texts


@pytest.mark.parametrize("system", ["os", "..optim", "_peer", "torch.os", "__init__", ""])
def test_build_imports_nothing_but_a_frameworks_module(system):
    with pytest.raises(ValueError, match="system must be a known one"):
        fs.compat.build(system, "system", {})


@pytest.mark.parametrize(
    "text",
    ["os.system('true')", "__import__('os')", "Cosine(steps=10).__class__", "torch.os", "torch.__getattr__('os')"],
)
def test_a_schedules_text_reaches_no_python(text):
    with pytest.raises(ValueError, match="spec"):
        fs.spec.parse(text)


@pytest.mark.parametrize("kind", ["eval", "os.system", "__import__", "tabulate", "from_json", "Schedule"])
def test_json_names_kinds_and_nothing_else(kind):
    document = fs.Cosine(steps=10).to_json()
    assert '"Cosine"' in document
    with pytest.raises(ValueError, match="from_json"):
        fs.from_json(document.replace('"Cosine"', f'"{kind}"'))


# ---- libraries


def test_nvrtc_is_looked_for_by_absolute_paths_and_then_by_its_own_name():
    known = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}
    for path in _nvrtc._candidates():
        assert Path(path).is_absolute() or path in known


def test_a_library_in_the_working_directory_is_not_loaded(tmp_path):
    # The loader would refuse the file with "invalid ELF header"; that it never says so shows that none was opened.
    names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "libcuda.so.1"]
    for name in names:
        (tmp_path / name).write_bytes(b"no library")
    code = f"""
import ctypes, os
os.chdir({str(tmp_path)!r})
from fastsched import _nvrtc
for name in {names}:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        assert "invalid" not in str(error), error
"""
    output(code)


@pytest.mark.skipif(not NATIVE.is_dir(), reason="the sources of the native module are not beside the tests")
def test_the_native_module_opens_the_cuda_driver_the_openmp_runtime_and_nothing_else():
    opened = {
        (file.name, call)
        for file in sorted(NATIVE.rglob("*"))
        if file.suffix in (".cpp", ".hpp", ".cu")
        for call in re.findall(r"\bdlm?open\([^,]*", file.read_text(encoding="utf-8"))
    }
    assert opened == {("driver.cpp", "dlopen(path_"), ("openmp.cpp", 'dlopen("libgomp.so.1"')}


@pytest.mark.skipif(not NATIVE.is_dir(), reason="the sources of the native module are not beside the tests")
def test_the_cuda_driver_is_opened_by_the_loaders_own_name_or_the_users():
    source = (NATIVE / "cuda" / "driver.cpp").read_text(encoding="utf-8")
    assert re.findall(r'"libcuda[^"]*"', source) == ['"libcuda.so.1"']
    assert re.findall(r'getenv\("([^"]*)"\)', source) == ["FASTSCHED_LIBCUDA"]
