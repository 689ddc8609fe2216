"""How many bytes of tensors are alive at the worst moment of a block, as a GPU's allocator would count them."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations inside the block make, until they are freed."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {storage.data_ptr() for storage in self._storages((args, kwargs))}
        out = function(*args, **(kwargs or {}))
        for storage in self._storages(out):
            if storage.data_ptr() not in before and storage not in self.known:
                self._count(storage)
        return out

    def _storages(self, values):
        return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]

    def _count(self, storage):
        size = storage.nbytes()
        self.known.add(storage)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size):
        self.now -= size
