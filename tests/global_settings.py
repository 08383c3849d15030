"""Settings of torch that are a process's or a thread's."""

import re

import numpy as np
import torch


def mkl_threads():
    """How many threads MKL uses in this thread, or None if torch is built without it."""
    found = re.search(r"mkl_get_max_threads\(\) : (\d+)", torch.__config__.parallel_info())
    return found and int(found[1])


def precisions():
    """Of products of float32 on each kind of device, where torch has one for each."""
    products = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    return [getattr(product, "fp32_precision", None) for product in products]


def settings_of_a_thread():
    """What training changes for its time, in the thread that trains and in the process."""
    return {
        "threads of torch": torch.get_num_threads(),
        "threads of MKL": mkl_threads(),
        "inference mode": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision of products": (precisions(), torch.get_float32_matmul_precision()),
        "NumPy's errors": np.geterr(),
    }
