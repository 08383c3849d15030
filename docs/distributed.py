"""Several processes train one classifier: torchrun --nproc-per-node 2 docs/distributed.py."""

import torch.distributed as dist
from sklearn.datasets import load_digits

from skorchless import TorchSoftmaxClassifier

dist.init_process_group()  # gloo between CPUs, NCCL between GPUs
rank, size = dist.get_rank(), dist.get_world_size()

X, y = load_digits(return_X_y=True)  # in practice, each rank reads only its own samples
model = TorchSoftmaxClassifier(distributed=True).fit(X[rank::size], y[rank::size])

if rank == 0:  # all ranks have the same model
    print(f"{size} ranks, {model.n_iter_} iterations, accuracy {model.score(X, y):.4f}")
dist.destroy_process_group()
