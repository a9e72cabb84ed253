"""Finds models that stock TensorFlow Serving would load and then fail to run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import ExportError

_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_MUST_COMPILE = "_XlaMustCompile"  # the attribute that jit_compile=True sets in a graph


def refuse_unservable(folder: Path) -> None:
    """Raises if a SavedModel holds anything that needs Python or an XLA compiler at serving time.

    Args:
        folder: a SavedModel, with its `saved_model.pb`.

    Raises:
        ExportError: a function or a call is marked `jit_compile=True`, or an operation calls back into Python.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graphs = [meta_graph.graph_def for meta_graph in saved_model.meta_graphs]
    for function in _functions(graphs):
        if function.attr[_MUST_COMPILE].b:
            raise _compiled(f"function {function.signature.name!r}")
    for node in _nodes(graphs):
        if node.attr[_MUST_COMPILE].b:
            raise _compiled(f"call {node.name!r}")
        if node.op in _PYTHON_OPS:
            raise ExportError(
                f"The operation {node.name!r} ({node.op}) calls back into Python, and TensorFlow Serving has no "
                "Python. Replace tf.py_function and tf.numpy_function in the model by operations of TensorFlow or of "
                "keras.ops."
            )


def _compiled(where: str) -> ExportError:
    return ExportError(
        f"The {where} is marked jit_compile=True, and stock TensorFlow Serving refuses to run it. Build the layer with "
        "a tf.function without jit_compile; the jit_compile of model.compile is harmless."
    )


def _functions(graphs: Iterable[Any]) -> Iterator[Any]:
    for graph in graphs:
        yield from graph.library.function


def _nodes(graphs: Iterable[Any]) -> Iterator[Any]:
    for graph in graphs:
        yield from graph.node
        for function in graph.library.function:
            yield from function.node_def
