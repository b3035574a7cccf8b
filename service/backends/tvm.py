"""Runs a network that TVM compiled, with TVM's runtime alone. The only file of the service that touches TVM.

`import tvm` loads the compiler (260 MB) and its frontends, and `import tvm_ffi` loads torch where it is installed.
Serving needs neither: the runtime is a library of 3 MB, and its virtual machine is called through `tvm_ffi`.

A library is loaded from its content, never from its path: `dlopen` would return the old code of a file that was
replaced. Compiled code can also end the process that loads it, and no exception tells of that: `prove` lets another
process try first. `python -m service.backends.tvm SHAPES` is that process.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from service import host
from service.artifact import Artifact, Library
from service.errors import ArtifactError, brief

_hidden = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # `import torch` raises ImportError on it
try:
    import tvm_ffi
finally:
    if _hidden is None:
        del sys.modules["torch"]

cpu_flags = host.flags  # for the builder, which imports of the service the contract and the backends alone

_CPU = 1  # DLPack's kDLCPU
# The virtual machine's allocator that asks the C library each time. The one that pools is shared by the whole process:
# threads then compute in buffers that lie in each other's caches, and two of them gain a factor of 1.7 in place of 1.9.
_NAIVE = 1
_ALIGNMENT = 64  # of every buffer that compiled code reads, in bytes (tvm::runtime::kAllocAlignment)
_FLUSH = 0x8040  # MXCSR: flush to zero (bit 15), denormals are zero (bit 6)
PROOF_S: Final = 60.0  # for which `prove` waits; it takes a third of a second
_ENDED_WELL, _RAISED = 40, 41  # exit statuses of the process that proves, which code that just calls exit won't give
_MXCSR = 7  # where x86-64's fenv_t holds it, in words of 32 bits


class TvmBackend:
    """A network compiled for batches of one and images of given shapes; a longer batch is a loop over its rows."""

    def __init__(self, artifact: Artifact) -> None:
        library = choose(artifact, host.flags())
        self.engine = f"tvm {importlib.metadata.version('apache-tvm')} {library.level}"
        path, code = artifact.file(library.file), artifact.content(library.file)
        shapes = [tuple(int(length) for length in shape) for shape in artifact.manifest.images]
        try:
            prove(code, shapes)
            self._network = Network(code, shapes, threads=1)
        except ImportError:  # TVM itself is missing, which `load` tells
            raise
        except Exception as error:  # TVM gives its errors whatever type their C++ names
            raise ArtifactError(f"{path} cannot be loaded by {self.engine}: {brief(error)}") from error

    def infer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Images uint8 (N, H, W, 3) to outputs float32 (N, ...), one row after the other."""
        return self._network(batch)

    def close(self) -> None:
        """Drop the virtual machine with its constants and buffers, and the code with the last one that runs it."""
        del self._network


class Network:
    """A compiled library; it belongs to the thread that loads it.

    Its function `prepare` makes tensors of the weights; `main` takes one row and these. A library for images of several
    shapes has both for each, with `suffix` behind their names. The tensors are made once for all threads.
    """

    def __init__(self, code: bytes, shapes: Sequence[tuple[int, ...]], threads: int) -> None:
        """Load `code`, the content of a library, which computes float32 (1, ...) from uint8 (1, *shape) for each of
        `shapes`, or raise what TVM raises."""
        # Read when the calling thread first starts its pool. Left alone, TVM binds it to cores that it may not have.
        os.environ.update(TVM_NUM_THREADS=str(threads), TVM_BIND_THREADS="0")
        _load_runtime()
        flush_denormals()
        self._library = _load(code)
        machine = self._library.module.get_function("vm_load_executable")()
        machine.get_function("vm_initialization")(_CPU, 0, _NAIVE)
        # One row, aligned as compiled code expects it, which a row inside a caller's batch is not.
        memory = _aligned(np.empty(max(map(math.prod, shapes)), np.uint8))
        self._functions = {
            shape: _Function(machine, shape, suffix(shape, shapes), memory, self._library) for shape in shapes
        }

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rows uint8 (N, *shape), N >= 1, to float32 (N, ...), in memory of the caller's own."""
        function = self._functions.get(batch.shape[1:])
        if function is None:
            raise ValueError(f"it is compiled for images of {[*self._functions]}, not of {batch.shape[1:]}")
        return np.stack([function(row) for row in batch])


class _Function:
    """A library's function for images of one shape."""

    def __init__(
        self, machine: Any, shape: tuple[int, ...], suffix: str, memory: NDArray[np.uint8], library: "_Library"
    ) -> None:
        self._main = machine.get_function(f"main{suffix}")
        self._prepared = library.prepared(suffix, machine.get_function(f"prepare{suffix}"))
        self._row = memory[: math.prod(shape)].reshape(1, *shape)
        self._input = tvm_ffi.from_dlpack(self._row)

    def __call__(self, row: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it computes of a row, in TVM's memory."""
        self._row[0] = row
        computed: NDArray[np.float32] = np.from_dlpack(self._main(self._input, *self._prepared))[0]
        return computed


def suffix(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> str:
    """What stands behind the names of a library's functions for images of `shape`, one of `shapes` (H, W, C)."""
    return f"_{shape[0]}x{shape[1]}" if len(shapes) > 1 else ""


def choose(artifact: Artifact, flags: frozenset[str]) -> Library:
    """The first, and so fastest, library that a CPU with `flags` can run; ArtifactError tells what each one misses."""
    if fitting := artifact.manifest.library(flags):
        return fitting
    lacking = "; ".join(
        f"{library.level} needs {', '.join(flag for flag in library.needs if flag not in flags)}"
        for library in artifact.manifest.libraries
    )
    raise ArtifactError(
        f"{artifact.folder} holds no library that this CPU can run ({lacking or 'it lists none'}). Compile one here "
        "with `python -m model_builder compile --target native`, or name variants for every CPU in LPR_VARIANT and "
        "LPR_FINDER: those whose names end in -quantized."
    )


def prove(code: bytes, shapes: Sequence[tuple[int, ...]]) -> None:
    """Let another process load `code` and compute rows of zeros; raise ArtifactError where that ends or hangs it.

    An exception there is none here: it comes again where the code is loaded. What was proved is not proved again. Where
    no process can be started, as in a sandbox that forbids it, nothing is proved, and the code is loaded as it is.
    """
    digest = hashlib.sha256(code).hexdigest()
    if digest in _proved:
        return
    command = [sys.executable, "-m", "service.backends.tvm", json.dumps(shapes)]
    try:
        ended = subprocess.run(
            command,
            input=code,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],  # where `service` is found
            timeout=PROOF_S,
            check=False,
        ).returncode
    except OSError:
        return
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"its code did not come to an end within {PROOF_S:g} s") from error
    if ended not in (_ENDED_WELL, _RAISED):
        how = signal.Signals(-ended).name if ended < 0 else f"exit status {ended}"
        raise ArtifactError(f"its code ends the process that runs it ({how})")
    _proved.add(digest)


def flush_denormals() -> None:
    """Let the calling thread, and those it starts, take denormals for zero: they cost a factor of ten on x86.

    Without a compiler: the C library's fesetenv loads MXCSR from the environment that it is given.
    """
    library = ctypes.CDLL(None)
    environment = (ctypes.c_uint32 * 8)()
    library.fegetenv(environment)
    environment[_MXCSR] |= _FLUSH
    library.fesetenv(environment)


class _Library:
    """Code that is mapped as long as something refers to this."""

    def __init__(self, code: bytes) -> None:
        # A file in memory, because a folder for temporary files may not be there, or not be executable. The path is one
        # that no other library had (of slashes and dots, which mean nothing): dlopen knows libraries by their paths.
        with open(os.memfd_create("library"), "wb") as file:
            file.write(code)
            file.flush()
            unique = f"{next(_numbers):b}".replace("0", "/").replace("1", "./")
            path = f"/proc/self/{unique}fd/{file.fileno()}"
            # Not tvm_ffi.load_module, which keeps each module until the process ends.
            self.module: Any = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(path, "so")
        self._preparing = threading.Lock()
        self._prepared: dict[str, tuple[Any, ...]] = {}  # by suffix
        self._tensors: dict[tuple[bytes, tuple[int, ...], str], Any] = {}  # by digest, shape and type of the content

    def prepared(self, suffix: str, prepare: Callable[[], Sequence[Any]]) -> tuple[Any, ...]:
        """The weights as `main` with this suffix reads them: one copy for all threads, and for all shapes that read the
        same one (26 MB a thread for the finder's five shapes, 18 MB for all threads without what is equal)."""
        with self._preparing:
            if suffix not in self._prepared:
                self._prepared[suffix] = tuple(self._shared(np.from_dlpack(made)) for made in prepare())
            return self._prepared[suffix]

    def _shared(self, made: NDArray[Any]) -> Any:
        key = hashlib.sha256(made.data).digest(), made.shape, made.dtype.str
        if key not in self._tensors:  # a copy: what was made belongs to one thread's virtual machine
            self._tensors[key] = tvm_ffi.from_dlpack(_aligned(made))
        return self._tensors[key]


def _aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy in memory that is aligned as compiled code expects it."""
    memory = np.empty(values.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy: NDArray[Any] = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


_numbers = itertools.count()
_loading = threading.Lock()
_libraries: WeakValueDictionary[str, _Library] = WeakValueDictionary()  # by sha256: one for all threads
_proved: set[str] = set()  # sha256 of code that ended no process


def _load(code: bytes) -> _Library:
    digest = hashlib.sha256(code).hexdigest()
    with _loading:
        if (found := _libraries.get(digest)) is None:
            found = _libraries[digest] = _Library(code)
    return found


def _load_runtime() -> None:
    spec = importlib.util.find_spec("tvm")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ImportError("No module named 'tvm'")
    ctypes.CDLL(str(Path(folders[0]) / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)


def _prove_here() -> int:
    """What the other process of `prove` does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    shapes = [tuple(shape) for shape in json.loads(sys.argv[1])]
    try:
        network = Network(sys.stdin.buffer.read(), shapes, threads=1)
        for shape in shapes:
            network(np.zeros((1, *shape), np.uint8))
    except Exception:
        return _RAISED
    return _ENDED_WELL


if __name__ == "__main__":
    os._exit(_prove_here())  # at once: what the code left behind may not be there any more when Python ends
