"""The driver's functions as the engine uses them, on the emulated driver: errors, lifetimes, uploads and captures."""

import ctypes
import functools
import os
import textwrap

import emulated
import pytest
import torch
from support import output, python

from fastsched import _core

cuda = pytest.fixture(emulated.running)

NOT_PERMITTED, OUT_OF_MEMORY, ILLEGAL_ADDRESS, NO_DEVICE = 800, 2, 700, 100
SMALLEST_BLOCK = 16384  # bytes of a page-locked block of uploads
# out[0] of every block's own number, and a count of runs in out[1].
KERNEL = """
#include <cstddef>
struct Arguments { long* out; };
extern "C" void fastsched_run(unsigned blocks, void** p) {
  long* const out = static_cast<Arguments*>(p[0])->out;
  for (unsigned b = 0; b < blocks; ++b) out[0] += b;
  out[1] += 1;
}
extern "C" const std::size_t fastsched_run_size = sizeof(Arguments);
extern "C" const char* const fastsched_run_name = "adding";
"""


class Calls:
    """csrc/cuda/driver.hpp by way of driver_calls.cpp: an exception there is a RuntimeError here."""

    def __init__(self, library):
        self.library = library
        for name in ("let_go", "release", "end_stream", "end_uploads"):
            getattr(library, name).restype = None
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.message_of_last.restype = ctypes.c_char_p

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*arguments):
            if function(*arguments) != 0 and function.restype is not None:
                raise RuntimeError(self.library.message_of_last().decode())

        return call

    def memory(self, size):
        owner, at = ctypes.c_void_p(), ctypes.c_void_p()
        self.allocate(ctypes.c_size_t(size), ctypes.byref(owner), ctypes.byref(at))
        return owner, at

    def stream(self):
        owner, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self.make_stream(ctypes.byref(owner), ctypes.byref(handle))
        return owner, handle

    def uploads(self):
        made = ctypes.c_void_p()
        self.make_uploads(ctypes.byref(made))
        return made

    def capturing(self, stream):
        found = ctypes.c_int()
        self.is_capturing(stream, ctypes.byref(found))
        return bool(found.value)

    def kernel(self, image, name):
        made = ctypes.c_void_p()
        self.load_kernel(image, name, ctypes.byref(made))
        return made


@functools.cache
def built():
    sources = [emulated.ROOT / "tests" / "driver_calls.cpp", emulated.ROOT / "csrc" / "cuda" / "driver.cpp"]
    options = ("-Wall", "-Wextra", "-Werror", f"-I{emulated.ROOT / 'csrc'}", "-ldl")
    return Calls(ctypes.CDLL(str(emulated.build(emulated.folder() / "driver_calls.so", sources, *options))))


@pytest.fixture
def calls(cuda, monkeypatch):
    """The driver's wrapper, loaded; every call leaves the thread's context and capture mode as they were."""
    monkeypatch.setenv("FASTSCHED_LIBCUDA", str(cuda.path))
    made = built()
    made.load()
    cuda.reset()
    yield made
    assert cuda.contexts() == 0
    assert cuda.capture_mode() == 0


@pytest.fixture
def stream(calls):
    owner, handle = calls.stream()
    yield handle
    calls.end_stream(owner)


@pytest.fixture
def memory(calls):
    """Address of 1 MiB."""
    owner, at = calls.memory(2**20)
    yield at
    calls.release(owner)


@pytest.fixture
def uploads(calls):
    made = calls.uploads()
    yield made
    calls.end_uploads(made)


@functools.cache
def image():
    return emulated.image(KERNEL)


def content(calls, at, size, stream):
    found = ctypes.create_string_buffer(size)
    calls.download(found, at, ctypes.c_size_t(size), stream)
    return found.raw


def send(calls, uploads, at, data, stream):
    calls.upload(uploads, at, data, ctypes.c_size_t(len(data)), stream)


# ---- loading, in a process of its own

VERSION = """
from fastsched import _core
try:
    print(_core.cuda_driver_version(), _core.cuda_devices())
except RuntimeError as error:
    print(error)
"""


def said(path, code=VERSION, **environment):
    return output(code, FASTSCHED_LIBCUDA=str(path), **environment)


def test_a_missing_driver_is_named_with_what_to_do():
    assert said("/nowhere/libcuda.so.1") == (
        "CUDA: no driver was found (/nowhere/libcuda.so.1); correct or unset FASTSCHED_LIBCUDA, "
        "or move the parameters to the CPU"
    )


def test_another_library_is_no_driver(tmp_path):
    other = emulated.build(tmp_path / "other.so", [], "-x", "c++", os.devnull)
    assert "other.so is no CUDA driver; install the NVIDIA driver, or unset FASTSCHED_LIBCUDA" in said(other)


def test_an_old_driver_is_refused_with_both_versions():
    assert said(emulated.driver().path, EMULATED_VERSION="11080") == (
        "CUDA: a driver for CUDA 12.0 or newer is needed, found one for CUDA 11.8; upgrade the NVIDIA driver"
    )


def test_a_driver_that_lacks_a_function_is_refused_by_its_name(tmp_path):
    source = tmp_path / "bare.cpp"
    source.write_text('extern "C" int cuDriverGetVersion(int* version) { *version = 12040; return 0; }')
    bare = emulated.build(tmp_path / "bare.so", [source])
    assert said(bare) == (
        "CUDA: a driver for CUDA 12.0 or newer is needed, found one for CUDA 12.4 and lacks cuInit; "
        "upgrade the NVIDIA driver"
    )


def test_devices_are_listed_with_name_and_capability():
    found = said(emulated.driver().path, EMULATED_DEVICES="2", EMULATED_CAPABILITY="120")
    assert found == "13000 [('Emulated GPU 0', (12, 0)), ('Emulated GPU 1', (12, 0))]"


def test_a_machine_without_devices_has_none():
    assert said(emulated.driver().path, EMULATED_DEVICES="0") == "13000 []"


def test_an_index_that_does_not_exist_is_refused():
    code = """
    from fastsched import _core
    try:
        _core.cuda_run(2, b"", "probe", 1, bytes(8), bytes(8), [0])
    except RuntimeError as error:
        print(error)
    """
    assert said(emulated.driver().path, textwrap.dedent(code), EMULATED_DEVICES="2") == (
        "CUDA: there are 2 devices, got index 2; check CUDA_VISIBLE_DEVICES"
    )


FORK = """
import os
from fastsched import _core
{before}
child = os.fork()
if child == 0:
    try:
        print(_core.cuda_devices(), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_child_of_a_process_that_used_cuda_is_refused():
    code = FORK.format(before="_core.cuda_devices()")
    assert said(emulated.driver().path, code).startswith("CUDA: this process was forked from one that used CUDA")


def test_a_child_of_a_process_that_did_not_use_cuda_may_use_it():
    assert said(emulated.driver().path, FORK.format(before="")) == "[('Emulated GPU 0', (9, 0))]"


def test_many_threads_load_it_once():
    code = """
    import ctypes, os, threading
    from fastsched import _core
    gate = threading.Barrier(8)
    def load():
        gate.wait()
        _core.cuda_driver_version()
    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(ctypes.CDLL(os.environ["FASTSCHED_LIBCUDA"]).emulated_count(b"cuInit"))
    """
    assert said(emulated.driver().path, textwrap.dedent(code)) == "1"


def test_objects_that_outlive_a_fork_do_not_call_the_driver():
    # The child's driver is not usable: destructors must leave it alone.
    code = """
    import ctypes, os
    calls, driver = ctypes.CDLL(os.environ["CALLS"]), ctypes.CDLL(os.environ["FASTSCHED_LIBCUDA"])
    memory, at = ctypes.c_void_p(), ctypes.c_void_p()
    assert calls.allocate(ctypes.c_size_t(64), ctypes.byref(memory), ctypes.byref(at)) == 0
    child = os.fork()
    if child == 0:
        calls.release(memory)
        print(driver.emulated_count(b"cuMemFree"), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    assert said(emulated.driver().path, textwrap.dedent(code), CALLS=built().library._name) == "0"


# ---- errors


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (ILLEGAL_ADDRESS, "CUDA: cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS: emulated; a kernel failed, perhaps"),
        (NOT_PERMITTED, "CUDA: cuStreamSynchronize: error 800; run `fastsched doctor`"),
        (NO_DEVICE, "CUDA: cuStreamSynchronize: CUDA_ERROR_NO_DEVICE: emulated; check CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_failing_call_says_which_why_and_what_to_do(calls, cuda, stream, status, message):
    cuda.fail("cuStreamSynchronize", status, 0)
    with pytest.raises(RuntimeError) as caught:
        calls.wait_for(stream, 0)
    assert str(caught.value).startswith(message)


def test_too_little_memory_says_how_much_was_asked_for_and_where(calls, cuda):
    cuda.fail("cuMemAlloc", OUT_OF_MEMORY, 0)
    with pytest.raises(RuntimeError, match="OUT_OF_MEMORY: out of memory; 4096 bytes were asked for on cuda:0: free"):
        calls.memory(4096)


def test_an_image_that_is_none_names_the_compiler_and_the_driver(calls):
    with pytest.raises(RuntimeError, match=r"cuModuleLoadData: CUDA_ERROR_INVALID_PTX.*upgrade the NVIDIA driver"):
        calls.kernel(b"// PTX\0", b"fastsched_run")


def test_a_kernel_that_the_image_lacks_names_the_cache(calls):
    with pytest.raises(RuntimeError, match=r"cuModuleGetFunction: CUDA_ERROR_NOT_FOUND.*compiled kernels"):
        calls.kernel(image(), b"another")


# ---- lifetimes


def test_memory_is_freed_with_its_owner(calls, cuda):
    before = cuda.allocations()
    owner, _ = calls.memory(100)
    assert cuda.allocations() == before + 1
    calls.release(owner)
    assert cuda.allocations() == before


def test_memory_that_was_let_go_is_never_freed(calls, cuda):
    before = cuda.allocations()
    owner, _ = calls.memory(100)
    calls.let_go(owner)
    calls.release(owner)
    assert cuda.allocations() == before + 1
    assert cuda.count("cuMemFree") == 0


def test_no_bytes_need_no_memory(calls, cuda):
    owner, at = calls.memory(0)
    assert at.value is None
    calls.release(owner)
    assert cuda.count("cuMemAlloc") == cuda.count("cuMemFree") == 0


@pytest.mark.parametrize("call", ["cuCtxPushCurrent", "cuThreadExchangeStreamCaptureMode", "cuMemFree"])
def test_releasing_memory_fails_silently(calls, cuda, call):
    owner, _ = calls.memory(100)
    cuda.fail(call, ILLEGAL_ADDRESS, 0)
    calls.release(owner)  # an exception in a destructor would end the process


def test_a_stream_of_ones_own_ends_with_its_owner(calls, cuda):
    before = cuda.streams()
    owner, _ = calls.stream()
    assert cuda.streams() == before + 1
    calls.end_stream(owner)
    assert cuda.streams() == before


# ---- kernels


def test_a_kernel_gets_its_struct_and_its_blocks(calls, cuda, memory, stream):
    kernel = calls.kernel(image(), b"fastsched_run")
    calls.set_zero(memory, ctypes.c_size_t(16), stream)
    calls.launch(kernel, stream, 4, 256, ctypes.byref(memory))
    assert content(calls, memory, 16, stream) == (0 + 1 + 2 + 3).to_bytes(8, "little") + (1).to_bytes(8, "little")
    assert cuda.launches() == [("adding", 4, 256)]


def test_no_blocks_are_no_launch(calls, cuda, memory, stream):
    kernel = calls.kernel(image(), b"fastsched_run")
    calls.launch(kernel, stream, 0, 256, ctypes.byref(memory))
    assert cuda.count("cuLaunchKernel") == 0


# ---- uploads


def test_the_source_of_an_upload_may_change_at_once(calls, cuda, uploads, memory, stream):
    cuda.hold(stream, 1)
    data = ctypes.create_string_buffer(b"before", 6)
    calls.upload(uploads, memory, data, ctypes.c_size_t(6), stream)
    data.raw = b"later!"
    assert content(calls, memory, 6, stream) == b"before"


def test_an_upload_never_waits(calls, cuda, uploads, memory, stream):
    cuda.hold(stream, 1)
    for _ in range(20):
        send(calls, uploads, memory, bytes(SMALLEST_BLOCK), stream)
    assert cuda.count("cuEventSynchronize") == cuda.count("cuStreamSynchronize") == 0


def test_a_block_is_used_again_once_its_copy_has_happened(calls, cuda, uploads, memory, stream):
    for _ in range(20):
        send(calls, uploads, memory, b"edits", stream)
    assert cuda.count("cuMemHostAlloc") == 1


def test_a_block_whose_copy_is_to_come_is_not_used_again(calls, cuda, uploads, memory, stream):
    cuda.hold(stream, 1)
    for i in range(10):
        send(calls, uploads, ctypes.c_void_p(memory.value + i), bytes([i]), stream)
    assert content(calls, memory, 10, stream) == bytes(range(10))
    assert cuda.count("cuMemHostAlloc") == 10


def test_blocks_in_use_on_one_stream_do_not_stop_those_of_another(calls, cuda, uploads, memory, stream):
    other_owner, other = calls.stream()
    for _ in range(3):
        send(calls, uploads, memory, b"held", stream)  # one block, in use from here on
    cuda.hold(stream, 1)
    send(calls, uploads, memory, b"held", stream)
    for _ in range(10):
        send(calls, uploads, memory, b"free", other)
    assert cuda.count("cuMemHostAlloc") == 2
    calls.end_stream(other_owner)


def test_a_large_upload_gets_a_block_that_holds_it(calls, cuda, uploads, memory, stream):
    data = os.urandom(5 * SMALLEST_BLOCK + 1)
    send(calls, uploads, memory, b"small", stream)
    send(calls, uploads, memory, data, stream)
    assert content(calls, memory, len(data), stream) == data
    send(calls, uploads, memory, data, stream)
    assert cuda.count("cuMemHostAlloc") == 2


def test_blocks_go_with_the_uploads_after_their_last_copy(calls, cuda, memory, stream):
    made = calls.uploads()
    before = cuda.locked_blocks()
    cuda.hold(stream, 1)
    send(calls, made, memory, b"last", stream)
    calls.end_uploads(made)
    assert cuda.locked_blocks() == before
    assert content(calls, memory, 4, stream) == b"last"


# ---- while a stream is being captured


@pytest.fixture
def captured(cuda, stream):
    """The stream while it is being captured; the test's graph must have stayed valid."""
    cuda.begin_capture(stream)
    yield stream
    graph = cuda.end_capture(stream)
    assert graph is not None
    cuda.end_graph(graph)


def test_a_capture_is_seen(calls, cuda, stream):
    assert not calls.capturing(stream)
    cuda.begin_capture(stream)
    assert calls.capturing(stream)
    cuda.end_capture(stream)
    assert not calls.capturing(stream)


def test_memory_comes_and_goes_during_a_capture(calls, captured):
    owner, _ = calls.memory(100)
    calls.release(owner)


def test_streams_come_and_go_during_a_capture(calls, captured):
    owner, _ = calls.stream()
    calls.end_stream(owner)


def test_kernels_are_loaded_during_a_capture(calls, captured):
    calls.kernel(image(), b"fastsched_run")


def test_uploads_on_another_stream_go_on_during_a_capture(calls, uploads, memory, captured):
    owner, own = calls.stream()
    for _ in range(3):
        send(calls, uploads, memory, b"edits", own)
    calls.wait_for(own, 1)
    calls.end_stream(owner)


def test_an_upload_into_a_capture_is_refused_before_it_invalidates_it(calls, uploads, memory, captured):
    with pytest.raises(RuntimeError, match="an upload would become part of the graph"):
        send(calls, uploads, memory, b"edits", captured)


def test_uploads_end_during_a_capture(calls, memory, captured):
    made = calls.uploads()
    owner, own = calls.stream()
    send(calls, made, memory, b"edits", own)
    calls.end_uploads(made)
    calls.end_stream(owner)


def test_launches_and_zeros_become_the_graph_and_run_at_its_replay(calls, cuda, memory, stream):
    kernel = calls.kernel(image(), b"fastsched_run")
    calls.set_zero(memory, ctypes.c_size_t(2**20), stream)
    cuda.begin_capture(stream)
    calls.set_zero(memory, ctypes.c_size_t(8), stream)
    calls.launch(kernel, stream, 3, 256, ctypes.byref(memory))
    graph = cuda.end_capture(stream)
    assert cuda.nodes(graph) == 2
    assert cuda.launches() == []
    cuda.replay(graph)
    cuda.replay(graph)
    found = content(calls, memory, 16, stream)
    assert [int.from_bytes(found[:8], "little"), int.from_bytes(found[8:], "little")] == [0 + 1 + 2, 2]
    cuda.end_graph(graph)


def test_waiting_for_a_captured_stream_says_what_to_do(calls, cuda, stream):
    cuda.begin_capture(stream)
    with pytest.raises(RuntimeError, match=r"CAPTURE_UNSUPPORTED.*make a few updates before the capture"):
        calls.wait_for(stream, 1)
    assert "of a stream that is being captured" in cuda.violations()
    cuda.reset()
    cuda.end_capture(stream)


# ---- tensors that a test shows as on a device


@pytest.fixture
def exchange(cuda):
    """The native module reads tensors through the emulated table."""
    _core.use_exchange(cuda.capsule())
    yield cuda
    _core.use_exchange(None)


def test_every_tensor_lies_on_the_device_if_asked_for(exchange):
    tensor = torch.zeros(3)
    assert _core.device_of(tensor) == -1
    exchange.tensors(1, 0)
    assert _core.device_of(tensor) == 0


def test_registered_tensors_alone_lie_on_their_device(exchange):
    one, other = torch.zeros(3), torch.zeros(3)
    exchange.register(one.data_ptr(), one.nbytes, 1)
    assert [_core.device_of(one), _core.device_of(one[1:]), _core.device_of(other)] == [1, 1, -1]
    exchange.unregister(one.data_ptr())
    assert _core.device_of(one) == -1


# ---- what stands in for the driver would notice


def test_a_wait_that_nobody_allowed_invalidates_the_capture(calls, cuda, stream):
    owner, other = calls.stream()
    cuda.begin_capture(stream)
    with pytest.raises(RuntimeError, match="CAPTURE_UNSUPPORTED"):
        calls.wait_for(other, 0)
    assert cuda.end_capture(stream) is None
    assert "cuStreamSynchronize: while a stream is being captured" in cuda.violations()
    cuda.reset()
    calls.end_stream(owner)


def test_a_copy_outside_device_memory_is_noticed(calls, cuda, uploads, memory, stream):
    with pytest.raises(RuntimeError, match="cuMemcpyHtoDAsync"):
        send(calls, uploads, ctypes.c_void_p(memory.value + 2**20 - 1), b"two", stream)
    assert "to what is no device memory" in cuda.violations()
    cuda.reset()


def test_a_kernel_that_writes_past_its_memory_is_noticed(calls, cuda, stream):
    owner, at = calls.memory(8)  # the kernel writes 16 bytes
    calls.launch(calls.kernel(image(), b"fastsched_run"), stream, 1, 1, ctypes.byref(at))
    assert "a kernel wrote outside an allocation of 8 bytes" in cuda.violations()
    cuda.reset()
    calls.release(owner)


def test_a_kernel_that_gets_freed_memory_is_noticed(calls, cuda, stream):
    owner, at = calls.memory(16)
    calls.release(owner)
    calls.launch(calls.kernel(image(), b"fastsched_run"), stream, 1, 1, ctypes.byref(at))
    assert "adding: its argument at byte 0 is memory that was freed" in cuda.violations()
    cuda.reset()


def test_a_child_sees_python_errors_and_not_a_crash():
    done = python("from fastsched import _core\n_core.cuda_run(0, b'', 'a', 1, b'', bytes(8), [1])")
    assert "ValueError: cuda_run: addresses must be among the arguments" in done.stderr
