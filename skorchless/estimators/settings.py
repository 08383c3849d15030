"""What the caller has set globally for torch: shut out while we train, and put back afterwards."""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import torch

from skorchless.optimizers.curvature import sample_size
from skorchless.restoring import between, with_setting
from skorchless.sources import Matrix, SparseRows, are_right_on_threads

T = TypeVar("T")

#: Multiply-adds a batch from which more than one thread pays.
WORTH_THREADS = 3 * 2**19

#: Of a full-batch rule a pass counts for so much less, and the second moments of a sample that it
#: may take beside for less again. Between small products it does much else: threads save a quarter
#: of its time at most, and double it where the cores are busy.
A_PASS, SECOND_MOMENTS = 4, 16

#: What the loss of one raw prediction costs, in multiply-adds.
LOSS_WORK = 32


def work_of_batch(X: Matrix, n_rows: int, stack_width: int, *, full_batch: bool) -> int:
    """Multiply-adds of one step with `n_rows` rows of X, a weight's being one at least.

    None are counted where X may only be multiplied on one thread.

    Parameters
    ----------
    X : Matrix
    n_rows : int
    stack_width : int
        Rows of weights that each row is multiplied with.
    full_batch : bool
        Whether a rule steps once a pass.
    """
    if isinstance(X, SparseRows) and X.device.type == "cpu" and not are_right_on_threads():
        return 0
    numbers = X.numel() // max(len(X), 1)
    work = max(n_rows * (numbers + LOSS_WORK), X.shape[1]) * stack_width
    if not full_batch:
        return work
    second_moments = min(n_rows, sample_size(numbers)) * numbers**2
    return max(work // A_PASS, second_moments // SECOND_MOMENTS)


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
    return with_setting(
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
    return with_setting(change, put_back, partial(_full_precision, run))


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
        return with_setting(
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

    Before torch 2.9 there is one setting for all products. From then on each kind of device has its
    own as well, and torch refuses to tell the old one if these contradict it: so what was lowered
    by the old one is raised by it too.
    """
    kinds = (torch.backends.cuda, torch.backends.mkldnn)
    products = [kind.matmul for kind in kinds if hasattr(kind, "matmul")]
    products = [product for product in products if hasattr(product, "fp32_precision")]
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
    if torch.get_num_threads() == 1 or work >= WORTH_THREADS:
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
    return with_setting(partial(set_threads, 1), partial(set_threads, before), run)


def _on_one_mkl_thread(run: Callable[[], T]) -> T:
    """Call `run` on one thread of MKL, whose number hides OpenMP's once it has been set."""
    library = _library()
    if not hasattr(library, "MKL_Set_Num_Threads_Local"):
        return run()
    set_threads, before = library.MKL_Set_Num_Threads_Local, list[int]()
    return with_setting(
        # The change gives the number before: in one call, so that no interrupt comes between them.
        lambda: before.extend(map(set_threads, [1])),
        lambda: [*map(set_threads, before[:1])],
        run,
    )
