"""Which samples step n sees: a function of the seed and n alone, so a resumed run lands on the very same batch.

A DataLoader is read as one endless row of samples, epoch after epoch in the order of its own sampler; batch n is
samples n B .. (n+1) B - 1 of that row, so every batch is full and may span two epochs. The sampler's dice are set by
(seed, epoch), those of random augmentation by (seed, place in the row): the number of workers or of processes changes
no pixel. With W processes, process r loads samples r, r + W, ... of each batch: B is the size over all processes.
Anything else that gives batches (a list, an IterableDataset, a batch_sampler) is read again and again, and batches
before n are skipped.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from prunekit.errors import DataError, InputError

Batch = tuple[Any, Any]


@dataclass(frozen=True)
class Share:
    """Which part of every batch this process takes."""

    rank: int = 0
    world: int = 1


def seed_of(*key: int | str) -> int:
    """A 63-bit seed from a key such as ("sample", seed, 17); unlike keys give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def dice(*key: int | str) -> Iterator[int]:
    """Set the dice of torch (CPU), Python and NumPy by a key inside the block; afterwards they are as before."""
    with _kept_dice():
        yield _set_dice(*key)


def _set_dice(*key: int | str) -> int:
    seed = seed_of(*key)
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global generator is what augmentations in the wild use)
    return seed


@contextmanager
def _kept_dice() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])  # noqa: NPY002


def batches(loader: Iterable[Any], seed: int, span: range, share: Share) -> Generator[Batch, None, None]:
    """Batches number span.start .. span.stop - 1 as (input, target), this process's share of each."""
    if _has_samples(loader):
        items = _from_samples(loader, seed, span, share)
    else:
        items = _from_batches(loader, seed, span, share)
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            what = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
            raise DataError(f"the loader gives a {what} per batch; (input, target) is needed: wrap the data set.")
        yield item[0], item[1]


def describe(loader: Iterable[Any]) -> dict[str, int]:
    """What must be the same for batch n to be the same: stored in checkpoints."""
    if not _has_samples(loader) or not hasattr(loader.dataset, "__len__"):
        return {}
    return {"samples": len(loader.dataset), "batch_size": int(loader.batch_size or 0)}  # type: ignore[arg-type]


def _has_samples(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    """Whether single samples can be asked for by number."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return False
    if isinstance(loader.sampler, DistributedSampler):
        raise InputError("the loader has a DistributedSampler; pass shuffle=True instead: finetune shares the batches.")
    return True


class _Repeatable(Dataset[Any]):
    """The data set behind (place, index) keys: the dice of a sample depend on its place in the row of samples."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        with _kept_dice():  # once a batch: saving them takes longer than setting them
            return [self._sample(place, index) for place, index in keys]

    def _sample(self, place: int, index: int) -> Any:
        _set_dice("sample", self.seed, place)
        return self.dataset[index]


def _from_samples(loader: DataLoader[Any], seed: int, span: range, share: Share) -> Iterator[Any]:
    size = int(loader.batch_size or 0)
    if size < share.world:
        raise InputError(f"a batch of {size} cannot be split over {share.world} processes; raise batch_size.")
    if len(_epoch_order(loader, seed, 0)) == 0:
        raise DataError("the loader's data set is empty: 0 samples.")
    again = DataLoader(
        _Repeatable(loader.dataset, seed),
        batch_sampler=_KeysOfBatches(loader, seed, span, share),  # type: ignore[arg-type]
        num_workers=loader.num_workers,
        collate_fn=_OneSize(loader.collate_fn),
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )
    yield from again


def with_sizes(loader: Iterable[Any]) -> Iterable[Any]:
    """The same batches; a DataLoader that cannot make one of samples of unlike sizes says so, with a DataError."""
    if not isinstance(loader, DataLoader):
        return loader
    other = copy.copy(loader)
    other.collate_fn = _OneSize(loader.collate_fn)
    return other


class _OneSize:
    """A collate function that names the sizes where samples do not fit together."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        try:
            return self.collate(samples)
        except RuntimeError as err:
            rows = [sample if isinstance(sample, (tuple, list)) else (sample,) for sample in samples]
            for parts in zip(*rows):
                sizes = sorted({tuple(part.shape) for part in parts if hasattr(part, "shape")})
                if len(sizes) > 1:
                    raise DataError(
                        f"samples of {len(sizes)} sizes, {', '.join(map(str, sizes))}, make no batch: crop or resize "
                        "them to one size in the data set's transform, or use batch_size=1."
                    ) from err
            raise


class _KeysOfBatches:
    """The batch sampler of this process: for each batch of `span`, its (place, index) keys."""

    def __init__(self, loader: DataLoader[Any], seed: int, span: range, share: Share) -> None:
        self.loader, self.seed, self.span, self.share = loader, seed, span, share

    def __len__(self) -> int:
        return len(self.span)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = int(self.loader.batch_size or 0)
        per_epoch = len(_epoch_order(self.loader, self.seed, 0))
        epoch, order = -1, []
        for n in self.span:
            keys = []
            for place in range(n * size, (n + 1) * size):
                if place // per_epoch != epoch:
                    epoch = place // per_epoch
                    order = _epoch_order(self.loader, self.seed, epoch)
                keys.append((place, order[place % per_epoch]))
            yield keys[self.share.rank :: self.share.world]


def _epoch_order(loader: DataLoader[Any], seed: int, epoch: int) -> list[int]:
    """The sampler's indices for one epoch, with its dice set by (seed, epoch) and its own generator left as it was."""
    generator = getattr(loader.sampler, "generator", None)
    before = generator.get_state() if generator is not None else None
    with dice("order", seed, epoch) as number:
        if generator is not None:
            generator.manual_seed(number)
        order = list(loader.sampler)
    if generator is not None and before is not None:
        generator.set_state(before)
    return order


def _from_batches(loader: Iterable[Any], seed: int, span: range, share: Share) -> Iterator[Any]:
    n, epoch, end = 0, 0, object()
    while n < span.stop:
        with dice("order", seed, epoch):
            source = iter(with_sizes(loader))
        first = n
        while n < span.stop:
            with dice("batch", seed, n):
                item = next(source, end)
            if item is end:
                break
            if n >= span.start:
                yield _part(item, share)
            n += 1
        if n == first:
            raise DataError(
                "the loader is empty: it gave no batch."
                if epoch == 0
                else f"the loader gave {n} batches and then none: a generator can be read once only; pass a DataLoader."
            )
        epoch += 1


def _part(item: Any, share: Share) -> Any:
    """Every W-th sample of a batch that came whole."""
    if share.world == 1 or not isinstance(item, (tuple, list)):
        return item
    for part in item:
        if not isinstance(part, (torch.Tensor, list, tuple)) or len(part) < share.world:
            size = len(part) if hasattr(part, "__len__") else type(part).__name__
            raise DataError(f"a batch of {size} cannot be split over {share.world} processes; use a DataLoader.")
    return type(item)(part[share.rank :: share.world] for part in item)
