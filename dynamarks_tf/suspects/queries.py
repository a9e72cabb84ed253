"""The queries: where the inputs for a suspect come from, and how some of them are chosen."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from dynamarks_tf._support import archives, texts
from dynamarks_tf.errors import ArgumentError, DatasetError

Array = npt.NDArray[Any]

_LABEL_NAMES = frozenset({"label", "labels", "y", "target", "targets", "id"})
_KINDS = archives.NUMBERS + archives.TEXTS
_INFINITE_CARDINALITY = -1  # tf.data.INFINITE_CARDINALITY


@runtime_checkable
class QuerySource(Protocol):
    """Inputs that can be read more than once, batch by batch."""

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields arrays of shape `(n, ...)`, always the same rows in the same order."""
        ...


class ArrayQueries:
    """Inputs held in one array, possibly memory-mapped."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields slices of at most `batch_size` rows."""
        for start in range(0, len(self._array), batch_size):
            yield canonical(np.asarray(self._array[start : start + batch_size]))


class DatasetQueries:
    """Inputs from a batched `tf.data.Dataset`, or any other iterable that can be iterated more than once."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the batches of the data set without labels."""
        for element in self._elements():
            batch = canonical(_to_array(_inputs_of(element)))
            if batch.ndim == 0:
                raise ArgumentError("`queries` yields single values; batch the data set first: dataset.batch(256)")
            for start in range(0, len(batch), batch_size):
                yield batch[start : start + batch_size]

    def _elements(self) -> Iterator[Any]:
        if not _is_py_dataset(self._dataset):
            yield from self._dataset
        else:
            for index in range(self._dataset.num_batches):
                yield self._dataset[index]


class SelectedQueries:
    """Some rows of another source."""

    def __init__(self, source: QuerySource, indices: Array) -> None:
        self._source = source
        self._indices = np.sort(indices)

    @property
    def indices(self) -> Array:
        """Which rows, in increasing order."""
        return self._indices

    def batches(self, batch_size: int) -> Iterator[Array]:
        """Yields the selected rows, in full batches except for the last."""
        waiting: list[Array] = []
        count = 0
        for batch in self._selected(batch_size):
            waiting.append(batch)
            count += len(batch)
            if count >= batch_size:
                rows = np.concatenate(waiting)
                yield rows[:batch_size]
                waiting, count = [rows[batch_size:]], count - batch_size
        if count:
            yield np.concatenate(waiting)

    def _selected(self, batch_size: int) -> Iterator[Array]:
        start = 0
        for batch in self._source.batches(batch_size):
            low, high = np.searchsorted(self._indices, [start, start + len(batch)])
            if high > low:
                yield batch[self._indices[low:high] - start]
            start += len(batch)


def as_queries(queries: Any) -> QuerySource:
    """Turns what a user passes as `queries` into a source.

    Args:
        queries: an array, tensor, list or pandas object of shape `(n, ...)`, of numbers, text or bytes; such inputs in
            a pair `(inputs, labels)`, or in a dictionary with labels, as `{"image": ..., "label": ...}`; a batched
            `tf.data.Dataset` or a `keras.utils.PyDataset` of any of these; a path to a `.npy` file, or to an `.npz`
            file that holds one array or one called `x` or `queries`; or a source, such as a request log, which is
            returned as it is.

    Returns:
        A source. Text and bytes come as arrays of `bytes` objects, text in UTF-8, whatever form they were given in.

    Raises:
        ArgumentError: something else, or a generator, which can be read only once.
        DatasetError: the file is missing, or cannot be read.
    """
    if isinstance(queries, (str, os.PathLike)):
        return ArrayQueries(load_queries(queries))
    if isinstance(queries, Iterator):
        raise ArgumentError(
            "`queries` is a generator, which can be read only once; queries must be fixed and digested before the "
            "suspect is asked. Pass an array, a tf.data.Dataset or a .npy file."
        )
    if isinstance(queries, QuerySource):
        return queries
    if _is_py_dataset(queries):
        if queries.num_batches is None:
            raise ArgumentError("`queries` is an endless PyDataset; give it a length, or pass an array.")
        return DatasetQueries(queries)
    if hasattr(queries, "as_numpy_iterator"):
        if int(queries.cardinality()) == _INFINITE_CARDINALITY:
            raise ArgumentError("`queries` is an endless data set; cut it: dataset.take(100)")
        return DatasetQueries(queries)
    array = _to_array(_inputs_of(queries))
    if array.ndim == 0 or (array.dtype == object and not _holds_text(array)):
        raise ArgumentError(
            "`queries` must be an array of shape (n, ...), a batched tf.data.Dataset, or a path to a .npy or .npz "
            f"file. Received: {type(queries).__name__}"
        )
    return ArrayQueries(array)


def canonical(batch: Array) -> Array:
    """Text and bytes in the form of this package, arrays of `bytes` objects; numbers as they are.

    Raises:
        ArgumentError: it holds other objects.
    """
    if not texts.may_be_text(batch):
        return batch
    try:
        return texts.as_bytes(batch)
    except ValueError as error:
        raise ArgumentError(f"`queries` cannot be read: {error}.") from error


def _inputs_of(given: Any) -> Any:
    """The inputs alone, of what may be a dictionary or a pair with labels.

    Raises:
        ArgumentError: there are several inputs.
    """
    if isinstance(given, dict):
        names = [name for name in given if name not in _LABEL_NAMES]
        if len(names) != 1:
            raise ArgumentError(
                "`queries` must be one array: models with several inputs are not supported by verify yet. "
                f"Received the inputs {', '.join(map(repr, names)) or '(none)'}."
            )
        return given[names[0]]
    is_pair = isinstance(given, tuple) and len(given) in (2, 3) and all(hasattr(part, "shape") for part in given[:2])
    if is_pair and _is_labeled(given[0], given[1]):
        return _inputs_of(given[0])
    if isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[0], dict):
        return _inputs_of(given[0])
    return given


def _is_labeled(inputs: Any, labels: Any) -> bool:
    """Whether two arrays are inputs and labels, and not two inputs."""
    sizes, label_sizes = tuple(inputs.shape), tuple(labels.shape)
    if not sizes or sizes[:1] != label_sizes[:1]:
        return False
    return sizes != label_sizes or (_holds_text(np.asarray(inputs)) and not _holds_text(np.asarray(labels)))


def _to_array(given: Any) -> Array:
    """An array of what was given, whose text keeps every byte: NumPy's own `U` and `S` drop zeros at the end."""
    if hasattr(given, "to_numpy"):  # pandas
        return np.asarray(given.to_numpy())
    leaf = given
    while isinstance(leaf, (list, tuple)) and leaf:
        leaf = leaf[0]
    try:
        return np.asarray(given, object if isinstance(leaf, (str, bytes)) else None)
    except ValueError as error:
        raise ArgumentError(
            "`queries` hold inputs of different shapes, which do not make one array. Bring all to the shape that the "
            f"model takes. ({error})"
        ) from error


def _holds_text(array: Array) -> bool:
    return texts.may_be_text(array) and all(isinstance(value, (str, bytes)) for value in array.ravel().tolist())


def _is_py_dataset(given: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(given, keras.utils.PyDataset)


def load_queries(path: str | os.PathLike[str]) -> Array:
    """Reads inputs from a `.npy` file (memory-mapped) or an `.npz` file.

    Raises:
        DatasetError: the file is missing, of another kind, or holds several arrays none of which is called `x` or
            `queries`.
    """
    name = os.fspath(path)
    if Path(path).suffix not in (".npy", ".npz"):
        raise DatasetError(f"Queries are read from .npy or .npz files. Received: {name}")
    try:
        array = archives.mapped(path, _KINDS) if Path(path).suffix == ".npy" else _chosen_array(name)
    except (OSError, ValueError) as error:
        raise DatasetError(f"Cannot read queries from {name}: {error}") from error
    if array.ndim == 0:
        raise DatasetError(f"{name} holds a single value; expected an array of shape (n, ...).")
    return array


def _chosen_array(name: str) -> Array:
    with archives.Archive(name) as archive:
        names = [member.removesuffix(".npy") for member in archive.names]
        chosen = next((n for n in ("queries", "x") if n in names), names[0] if len(names) == 1 else None)
        if chosen is None:
            raise DatasetError(
                f"{name} holds the arrays {', '.join(names) or '(none)'}; expected one, or one called 'queries' or 'x'."
            )
        return archive.array(f"{chosen}.npy", _KINDS)


def balanced_choice(classes: Array, count: int, seed: int) -> Array:
    """Chooses items so that the classes are represented as equally as possible.

    Args:
        classes: class of each item, shape `(n,)`.
        count: how many to choose; all, if there are at most that many.
        seed: seed of the choice.

    Returns:
        Sorted indices, shape `(min(count, n),)`.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    sorted_classes = classes[by_class]
    starts = np.searchsorted(sorted_classes, sorted_classes, side="left")
    rank_in_class = np.arange(len(classes)) - starts
    # Round by round: the first item of every class, then the second, and so on; in random order within a round.
    order = np.lexsort((rng.random(len(classes)), rank_in_class))
    return np.asarray(np.sort(by_class[order[:count]]))


def confident_balanced_choice(classes: Array, confidence: Array, count: int, seed: int) -> Array:
    """Chooses items like `balanced_choice`, from the most confident fifth of each class.

    The class channel stands out from small probabilities, so inputs with a confident clean answer carry the most
    evidence. Where a fifth of a class is too few, more of it is used.

    Args:
        classes: class of each item, shape `(n,)`.
        confidence: the clean model's probability of its best class, shape `(n,)`.
        count: how many to choose; all, if there are at most that many.
        seed: seed of the choice.

    Returns:
        Sorted indices, shape `(min(count, n),)`.
    """
    order = np.lexsort((-confidence, classes))
    sorted_classes = classes[order]
    rank = np.empty(len(classes), np.int64)
    rank[order] = np.arange(len(classes)) - np.searchsorted(sorted_classes, sorted_classes, side="left")
    sizes = np.bincount(classes)
    per_class = -(-count // max(1, int(np.count_nonzero(sizes))))
    wanted = np.maximum(-(-sizes // 5), per_class)[classes]
    pool = np.flatnonzero(rank < wanted)
    if len(pool) < count:  # some classes have too few items: fill up with the most confident of the others
        pool = np.argsort(rank, kind="stable")[:count]
    return np.sort(pool[balanced_choice(classes[pool], count, seed)])
