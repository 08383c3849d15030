"""What the caller has set globally for torch: shut out while we train, and put back afterwards."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial

import torch

from skorchless.optimizers.curvature import sample_size
from skorchless.sources import Matrix

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

    Parameters
    ----------
    X : Matrix
    n_rows : int
    stack_width : int
        Rows of weights that each row is multiplied with.
    full_batch : bool
        Whether a rule steps once a pass.
    """
    numbers = X.numel() // max(len(X), 1)
    work = max(n_rows * (numbers + LOSS_WORK), X.shape[1]) * stack_width
    if not full_batch:
        return work
    second_moments = min(n_rows, sample_size(numbers)) * numbers**2
    return max(work // A_PASS, second_moments // SECOND_MOMENTS)


@contextlib.contextmanager
def own_settings(device: torch.device, work: int) -> Iterator[None]:
    """Train without autograd, autocast and reduced precision, and on no more threads than pay.

    Parameters
    ----------
    device : torch.device
        Where the training happens.
    work : int
        Multiply-adds of one product with a batch. Where they are few, several threads cost more
        time meeting than they save, and far more when other processes keep the cores busy.
    """
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        full_precision,
        enough_threads(work),
    ):
        yield


class _FullPrecision:
    """Multiply float32 matrices in float32.

    The setting is the process's, so of several fits at once the first one in changes it and the
    last one out puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._put_back: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._put_back = self._change()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for put_back in self._put_back:
                    put_back()

    @staticmethod
    def _change() -> list[Callable[[], None]]:
        kinds = (torch.backends.cuda, torch.backends.mkldnn)
        products = [kind.matmul for kind in kinds if hasattr(kind, "matmul")]
        products = [product for product in products if hasattr(product, "fp32_precision")]
        if not products:  # before torch 2.9 there is one setting for all
            legacy = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            return [partial(torch.set_float32_matmul_precision, legacy)]
        before = [product.fp32_precision for product in products]
        for product in products:
            product.fp32_precision = "ieee"
        return [
            partial(setattr, product, "fp32_precision", precision)
            for product, precision in zip(products, before, strict=True)
        ]


full_precision = _FullPrecision()


@contextlib.contextmanager
def enough_threads(work: int) -> Iterator[None]:
    """One thread where a batch is little work."""
    threads = torch.get_num_threads()
    if threads == 1 or work >= WORTH_THREADS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
