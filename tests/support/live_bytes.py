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
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {self._of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if (
                isinstance(leaf, torch.Tensor)
                and self._of(leaf) not in before
                and leaf.untyped_storage() not in self.known
            ):
                self._count(leaf.untyped_storage())
        return out

    def _of(self, tensor):
        return tensor.untyped_storage().data_ptr()

    def _count(self, storage):
        size = storage.nbytes()
        self.known[storage] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size):
        self.now -= size
