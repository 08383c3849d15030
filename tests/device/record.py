"""Counts what a device is asked to do: kernels, waits of the host, bytes either way."""

import sys
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that make or describe memory, for which a device has nothing to do.
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("resize_", "set_", "detach", "alias", "view", "_unsafe_view", "_reshape_alias"),
    *("lift_fresh", "detach_", "sym_size", "is_same_size"),
}

#: Operations at whose end the host waits, for a size or for a word on success.
ASKING = {
    *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("equal", "is_nonzero", "repeat_interleave", "histc"),
    *("linalg_eigh", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq"),
    *("linalg_cholesky", "linalg_inv", "linalg_solve", "cholesky"),
}


class Record(TorchDispatchMode):
    """What a device is asked to do while this is entered.

    Attributes
    ----------
    kernels, lines : Counter
        By operation, and by line of the package.
    waits : Counter
        By reason and line of the package. Copies either way wait, as pageable memory makes them.
    sent, fetched : Counter
        Bytes to the device and back, by line.
    mixed : Counter
        Operations on the device with a single number of the host's, by line.
    doubles : Counter
        Most numbers of double precision that an operation on the device wrote, by line.
    """

    def __init__(self, device):
        super().__init__()
        self.kind = torch.device(device).type
        self.kernels, self.lines = Counter(), Counter()
        self.waits, self.mixed = Counter(), Counter()
        self.sent, self.fetched = Counter(), Counter()
        self.doubles = Counter()

    @property
    def n_kernels(self):
        return self.kernels.total()

    @property
    def largest_double(self):
        return max(self.doubles.values(), default=0)

    @property
    def n_waits(self):
        return self.waits.total()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        composite = "CompositeImplicitAutograd"
        if torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), composite):
            with self:  # in inference mode such operations have not been taken apart before
                return operation.decompose(*args, **kwargs)
        result = operation(*args, **kwargs)
        given = [t for value in (*args, *kwargs.values()) for t in _tensors(value)]
        made = list(_tensors(result))
        if self._touches_device(given, made):
            self._write_down(name, operation, args, kwargs, given, made)
        return result

    def _touches_device(self, given, made):
        return any(tensor.device.type == self.kind for tensor in (*given, *made))

    def _write_down(self, name, operation, args, kwargs, given, made):
        line = _line()
        if name in ("_to_copy", "copy_"):
            self._launch(name, line)
            source, target = (args[1], args[0]) if name == "copy_" else (args[0], made[0])
            if source.device.type != target.device.type:
                way = self.sent if target.device.type == self.kind else self.fetched
                way[line] += source.numel() * target.element_size()
                self.waits["copy", line] += 1
        elif name == "_local_scalar_dense":
            self.fetched[line] += given[0].element_size()
            self.waits["number", line] += 1
        elif name not in NO_KERNEL and not operation.is_view:
            self._launch(name, line)
            indexing = name in ("index", "index_put_", "_index_put_impl_")
            masks = (torch.bool, torch.uint8)
            masked = indexing and any(t.dtype in masks for t in _tensors(args[1]))
            sized = name == "repeat_interleave" and kwargs.get("output_size") is not None
            if (name in ASKING and not sized) or masked or kwargs.get("check_errors"):
                self.waits[name, line] += 1
            for tensor in given:
                if tensor.device.type == "cpu":
                    (self.waits if indexing else self.mixed)["host's " + name, line] += 1
            for tensor in made:
                wide = tensor.dtype == torch.float64 and tensor.device.type == self.kind
                if wide:
                    self.doubles[line] = max(self.doubles[line], tensor.numel())

    def _launch(self, name, line):
        self.kernels[name] += 1
        self.lines[f"{name} {line}"] += 1

    def __str__(self):
        parts = [f"{self.n_kernels} kernels, {self.n_waits} waits"]
        for title in ("kernels", "lines", "waits", "sent", "fetched", "mixed", "doubles"):
            parts += [f"{title}: {n} {what}" for what, n in getattr(self, title).most_common(40)]
        return "\n".join(parts)


def _line():
    """The innermost lines of the package that led here."""
    frame, lines = sys._getframe(2), []
    while frame is not None and len(lines) < 3:
        _, found, path = frame.f_code.co_filename.rpartition("/skorchless/")
        if found:
            lines.append(f"{path}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
