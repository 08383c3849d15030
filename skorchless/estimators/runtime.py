"""Where and how a fit runs: devices, threads, precision, ranks, and errors of memory.

Settings that the user has made for the whole process are changed while a fit runs, and restored.
"""

import contextlib
import ctypes
import re
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, float64

from skorchless.data import Matrix, SparseRows
from skorchless.distributed import SINGLE_PROCESS, Communicator, Group, local_rank_device
from skorchless.estimators import limits
from skorchless.estimators.parameters import Parameters, batch_rows, chosen_optimizer, shown
from skorchless.restoring import between
from skorchless.stack import private_generator

T = TypeVar("T")


def own_settings(device: torch.device, work: int, run: Callable[[], T]) -> T:
    """Call `run` without autograd, autocast and reduced precision, on no more threads than pay.

    Parameters
    ----------
    device : torch.device
        Where the training happens.
    work : int
        Multiply-adds of one product with a batch. Where they are few, several threads cost more
        time meeting than they save, and far more when other processes keep the cores busy.
    run : callable
    """
    inference = torch.inference_mode()
    # For an accelerator the CPU only gathers rows, if it has to: with all threads.
    enough = partial(on_enough_threads, work, run) if device.type == "cpu" else run
    return between(
        partial(_enter, inference),
        partial(_leave, inference),
        partial(in_full_precision, device, enough),
    )


def _enter(inference: torch.inference_mode) -> None:
    """Enter inference mode, unless this thread is in it."""
    if not torch.is_inference_mode_enabled():
        inference.__enter__()


def _leave(inference: torch.inference_mode) -> None:
    """Leave inference mode, if it was ever entered, rather than when its last traceback goes."""
    with contextlib.suppress(AttributeError):
        inference.__exit__(None, None, None)


def in_full_precision(device: torch.device, run: Callable[[], T]) -> T:
    """Call `run` with products in the precision of their factors: no autocast, no TF32."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return _full_precision(run)
    change = partial(torch.set_autocast_enabled, kind, False)
    put_back = partial(torch.set_autocast_enabled, kind, True)
    return between(change, put_back, partial(_full_precision, run))


class _FullPrecision:
    """Multiply float32 matrices in float32, where the user has lowered that.

    The setting is the process's, so of several fits at once the first one in changes it and the
    last one out puts it back.
    """

    def __init__(self) -> None:
        # A lock that only its owner can release may be released once more than it was acquired.
        self._lock = threading.RLock()
        self._inside: set[object] = set()
        self._put_back: list[Callable[[], None]] = []

    def __call__(self, run: Callable[[], T]) -> T:
        """Call `run` in full precision."""
        me = object()
        return between(
            partial(self._locked, partial(self._enter, me)),
            partial(self._locked, partial(self._leave, me)),
            run,
        )

    def _locked(self, change: Callable[[], None]) -> None:
        between(self._lock.acquire, self._release, change)

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def _enter(self, me: object) -> None:
        if not self._inside:
            changes = _precision_changes()
            if not changes:
                return
            self._put_back = [put_back for _, put_back in changes]
            self._inside.add(me)
            for change, _ in changes:
                change()
        self._inside.add(me)

    def _leave(self, me: object) -> None:
        if self._inside == {me}:
            for put_back in self._put_back:
                put_back()
        self._inside.discard(me)


def _precision_changes() -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """What to do to multiply in full precision, and what puts the user's setting back.

    There is one setting for all products, and one for each kind of device. torch refuses to tell
    the first if the others contradict it: so what was lowered by it is raised by it too.
    """
    backends: Any = torch.backends
    products = [backends.cuda.matmul, backends.mkldnn.matmul]
    of_all, change = "highest", torch.set_float32_matmul_precision
    with contextlib.suppress(RuntimeError):  # they do contradict each other
        of_all = torch.get_float32_matmul_precision()
    changes: list[tuple[Callable[[], None], Callable[[], None]]] = []
    if of_all != "highest":
        changes = [(partial(change, "highest"), partial(change, of_all))]
    return changes + [
        (
            partial(setattr, product, "fp32_precision", "ieee"),
            partial(_lower, product, product.fp32_precision),
        )
        for product in products
        if product.fp32_precision not in ("none", "ieee")
    ]


def _lower(product: Any, precision: str) -> None:
    """Set a precision again, or have it inherited again if that comes to the same."""
    if product.fp32_precision == precision:
        return
    product.fp32_precision = "none"
    if product.fp32_precision != precision:
        product.fp32_precision = precision


_full_precision = _FullPrecision()


def on_enough_threads(work: int, run: Callable[[], T]) -> T:
    """Call `run` on one thread where a batch is little work.

    What torch has for that, ``torch.set_num_threads``, changes how many threads other threads get
    that use torch for the first time. OpenMP and MKL keep a number for each thread.
    """
    if torch.get_num_threads() == 1 or work >= limits.WORTH_THREADS:
        return run()
    return _on_one_openmp_thread(partial(_on_one_mkl_thread, run))


@cache
def _library() -> ctypes.CDLL:
    """What torch is linked with."""
    return ctypes.CDLL(torch._C.__file__)


def _on_one_openmp_thread(run: Callable[[], T]) -> T:
    library = _library()
    if not hasattr(library, "omp_set_num_threads"):
        return run()
    set_threads, before = library.omp_set_num_threads, library.omp_get_max_threads()
    return between(partial(set_threads, 1), partial(set_threads, before), run)


def _on_one_mkl_thread(run: Callable[[], T]) -> T:
    """Call `run` on one thread of MKL, whose number hides OpenMP's once it has been set."""
    library = _library()
    if not hasattr(library, "MKL_Set_Num_Threads_Local"):
        return run()
    set_threads, before = library.MKL_Set_Num_Threads_Local, list[int]()
    return between(
        # The change gives the number before: in one call, so that no interrupt comes between them.
        lambda: before.extend(map(set_threads, [1])),
        lambda: [*map(set_threads, before[:1])],
        run,
    )


def available_devices() -> list[str]:
    """Names of the devices on this machine."""
    counts = {"cuda": torch.cuda.device_count()}
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if other is not None:
        counts[other.type] = torch.accelerator.device_count()
    return ["cpu", *(f"{kind}:{i}" for kind, count in counts.items() for i in range(count))]


def resolve_device(
    device: str | int | torch.device,
    own: torch.device | None,
    *,
    worth_moving: bool = False,
    distributed: bool = False,
) -> torch.device:
    """The device to train on.

    CUDA is only asked for where the work would go there: asking initialises it, after which the
    process must not fork.

    Parameters
    ----------
    device : str, int or torch.device
        The estimator's parameter.
    own : torch.device or None
        Where X is, if it is a tensor.
    worth_moving : bool
        Whether there is so much work that "auto" takes it to CUDA, if that is there.
    distributed : bool
        Whether each rank of a group is to have a GPU of its own.

    Raises
    ------
    ValueError
        If there is no such device here, or no such device at all, or if it has no float64.
    """
    if isinstance(device, str) and device == "auto":
        here = own or torch.device("cpu")
        moves = own is None and worth_moving and torch.cuda.is_available()
        chosen = torch.device("cuda") if moves else here
    else:
        chosen = _named_device(device)
    if chosen.index is None and chosen.type != "cpu":
        own_gpu = distributed and chosen.type == "cuda"
        chosen = local_rank_device() if own_gpu else _numbered(chosen)
    if not has_double(chosen):
        raise ValueError(
            f"Training on device {str(chosen)!r} is not possible: it has no float64, in which "
            "losses and statistics are summed. Set device='cpu'; the model can still predict "
            "tensors that are there."
        )
    return chosen


def _named_device(device: str | int | torch.device) -> torch.device:
    """The device that is meant by a name or a number, if it is here."""
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        guess = ""
        with contextlib.suppress(RuntimeError, AttributeError):
            meant = device.lower().replace("gpu", "cuda")  # type: ignore[union-attr]
            guess = f" Did you mean {str(torch.device(meant))!r}?"
        raise ValueError(
            f"device={shown(device)} is not a device that torch knows.{guess} "
            f"Devices here: {available_devices()}."
        ) from error
    if chosen.type == "cpu":
        return chosen
    names, why = available_devices(), ""
    if str(chosen) in {*names, *(name.split(":")[0] for name in names)}:
        return chosen
    if chosen.type == "cuda" and not torch.cuda.device_count():
        cpu_build = torch.version.cuda is None and torch.version.hip is None
        why = "this is a CPU build of torch; install a CUDA build"
        why = f": {why if cpu_build else 'torch finds no CUDA device'}. "
        why += "device='auto' uses a GPU where there is one"
    raise ValueError(f"device={str(chosen)!r} is not available{why}. Devices here: {names}.")


def _numbered(device: torch.device) -> torch.device:
    """The current one of the devices of a kind."""
    return torch.empty(0, device=device).device


@cache
def has_double(device: torch.device) -> bool:
    """Whether a device has float64, which Apple's and some others lack."""
    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.ones(1, dtype=float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def where_double_is(*values: Any) -> list[Any]:
    """Tensors of devices without float64 on the CPU, and everything else as it is."""
    return [
        value.cpu() if isinstance(value, Tensor) and not has_double(value.device) else value
        for value in values
    ]


def is_worth_moving(parameters: Parameters, work: int, n_rows: int, *, one_pass: bool) -> bool:
    """Whether there is so much work between two decisions of the host that a GPU is faster.

    Parameters
    ----------
    parameters : dict
        Constructor parameters of an estimator.
    work : int
        Multiply-adds of a product with all rows.
    n_rows : int
    one_pass : bool
        Whether it is a call of ``partial_fit``, which takes steps whatever the optimizer.
    """
    if chosen_optimizer(parameters, one_pass=one_pass) == "quasi-newton":
        return work >= limits.WORTH_A_PASS
    return work * batch_rows(parameters, n_rows) >= limits.WORTH_A_STEP * n_rows


#: Parameters that may differ from rank to rank.
OF_A_RANK = ("device", "random_state")

#: Seeds of two ranks are this far apart (the golden ratio of 2^63, an odd number).
SEED_STEP = 0x4F1BBCDCBFA53E0B


def communicator_of(distributed: Any) -> Communicator:
    """Who trains together: the ranks of the initialised group, or nobody else.

    Raises
    ------
    ValueError
        If there is no group to join.
    """
    return Group() if isinstance(distributed, bool | np.bool_) and distributed else SINGLE_PROCESS


def check_agreement(comm: Communicator, facts: dict[str, Any]) -> None:
    """Raise ValueError on every rank if they differ in one of the `facts`."""
    first, *others = comm.all_gather_object(facts)
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise ValueError(
                    f"All ranks must agree on {name}: rank 0 has {value!r}, rank {rank} has "
                    f"{other.get(name)!r}."
                )


def facts_of(estimator: Any, X: Matrix) -> dict[str, Any]:
    """What all ranks must agree on, by name for a message."""
    parameters = {
        f"the parameter {name!r}": value
        for name, value in estimator._parameters().items()
        if name not in OF_A_RANK
    }
    return {
        "the estimator": type(estimator).__name__,
        **parameters,
        "having callbacks": bool(getattr(estimator, "_skl_callbacks", None)),
        "the number of features": X.shape[1],
        "the names of the features": list(getattr(estimator, "feature_names_in_", ())),
        "the precision of X": str(X.dtype),
        "the kind of X": "sparse" if isinstance(X, SparseRows) else "dense",
    }


def check_start(comm: Communicator, start: np.ndarray) -> None:
    """Raise ValueError on a rank that would not start where rank 0 does."""
    if not np.array_equal(comm.all_gather_object(start)[0], start):
        raise ValueError(
            "All ranks must start from the same weights: coef_init, intercept_init, or with "
            "warm_start=True or partial_fit the fit before, differ from rank 0's."
        )


def check_some_rows(comm: Communicator, n_rows: int, message: str) -> None:
    """Raise ValueError on every rank if none has a row."""
    if not sum(comm.all_gather_object(n_rows)):
        raise ValueError(message)


def generator_of_rank(comm: Communicator, random_state: Any) -> torch.Generator:
    """Rank 0's seed, and from it a generator of each rank's own."""
    own = private_generator(random_state)
    if comm.size == 1:
        return own
    seed: int = comm.all_gather_object(own.initial_seed())[0]
    return private_generator((seed + comm.rank * SEED_STEP) % 2**63)


#: What torch says in a RuntimeError where it cannot get memory, each system in its own words.
WORDS = ("DefaultCPUAllocator", "std::bad_alloc", "Storage size calculation overflowed")

#: How torch, its CUDA allocator and NumPy tell what was asked for.
ASKED = re.compile(r"(?:tried|unable) to allocate (\d[\d.]*) ?(bytes|[KMGTPE]?i?B)", re.IGNORECASE)

CURE = (
    "Pass X as float32 or as a memory map, train with optimizer='adam' and a small batch_size, or "
    "pass fewer rows or columns at once."
)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError with the size that was asked for and a cure, whoever ran out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error)
        ran_out = isinstance(error, MemoryError | torch.OutOfMemoryError)
        ran_out = ran_out or any(words in message for words in WORDS)
        if not ran_out or CURE in message:
            raise
        asked, found = f": {message}".rstrip(": "), ASKED.search(message)
        if found is not None:
            size, unit = found.groups()
            if unit == "bytes":
                size, unit = f"{int(size) / 2**30:.3g}", "GiB"
            asked = f": {size} {unit} were asked for"
        raise MemoryError(f"There is not enough memory{asked}. {CURE}") from error
