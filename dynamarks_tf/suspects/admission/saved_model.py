"""A SavedModel as it lies on disk: its graph is read as data, and each operator checked before it is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynamarks_tf.suspects.admission.graph import Graph
from dynamarks_tf.suspects.admission.operators import COMPUTING, FILLING_FROM_FILE, RESTORING, SAVING
from dynamarks_tf.suspects.admission.refusals import check_declared, inside, reading, refused, shown, unreadable

_KIND = "a SavedModel"
_LARGEST_GRAPH = 2**31 - 1  # bytes; protocol buffers hold no more
_MOST_FILES = 10_000
_OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb")


def check_saved_model(folder: Path, description: str) -> None:
    """Checks that loading and asking a SavedModel computes, and does nothing else.

    Args:
        folder: the folder with `saved_model.pb`.
        description: description of the suspect.

    Raises:
        SuspectError: it holds an operator that is not accepted, links, or tensors out of proportion.
    """
    with reading(description, _KIND):
        stored = sum(_sizes_of_files(folder, description))
        content = _parsed(folder, description)
        is_version_1 = len(content.meta_graphs) != 1 or not content.meta_graphs[0].HasField("object_graph_def")
        for meta_graph in content.meta_graphs:
            check_assets(meta_graph, folder, description)
            declared = sum(map(_declared_bytes, _nodes(meta_graph.graph_def)))
            check_declared(description, declared, stored, "the constants of its graph")
            check_operators(meta_graph, description, is_version_1=is_version_1)


def check_operators(meta_graph: Any, description: str, *, is_version_1: bool = False) -> None:
    """Checks each operator of a graph, its functions and initializers.

    Operators that save variables are accepted where nothing calls them but the saver, which is never run; those that
    restore variables likewise, and where the saver of TensorFlow 1 restores the model's own; tables that are filled
    from a file, where the file is one of the model's assets.

    Args:
        meta_graph: a `MetaGraphDef`.
        description: description of the suspect.
        is_version_1: whether TensorFlow loads it as a model of TensorFlow 1.

    Raises:
        SuspectError: one is not accepted; the message names it.
    """
    from tensorflow.python.framework import op_def_registry

    graph = Graph(meta_graph, is_version_1=is_version_1)
    if not graph.names_are_unique:
        raise refused(description, "it has two nodes or functions of one name.")
    for name in graph.functions:
        if op_def_registry.get(name) is not None:
            raise refused(description, f"it has a function of its own called {shown(name)}, as an operator is.")
    reached = graph.reached()
    for function, node in graph.nodes():
        if any(value.placeholder for value in node.attr.values()):
            raise refused(description, f"what node {shown(node.name)} calls is open until it is called.")
        accepted = (
            node.op in COMPUTING
            or node.op in graph.functions
            or (node.op in SAVING and (function, node.name) not in reached)
            or (node.op == RESTORING and ((function, node.name) not in reached or graph.restores_own(function, node)))
            or (node.op in FILLING_FROM_FILE and graph.reads_asset(function, node))
        )
        if not accepted:
            where = f"function {shown(function)}" if function else "graph"
            raise refused(
                description,
                f"node {shown(node.name)} of its {where} is the operator {shown(node.op)}, which may reach files, "
                "programs or other machines, or is not known.",
            )


def check_assets(meta_graph: Any, folder: Path, description: str) -> None:
    """Checks that the files that a graph names lie in the SavedModel's own folder of assets."""
    for asset in meta_graph.asset_file_def:
        if not inside(folder, f"assets/{asset.filename}") or os.path.isabs(asset.filename):
            raise refused(description, f"its asset {shown(asset.filename)} lies outside its folder.")
    if "saved_model_assets" in meta_graph.collection_def and not meta_graph.asset_file_def:
        raise refused(description, "it names its assets in a collection, as TensorFlow 1.0 did.")


def _sizes_of_files(folder: Path, description: str) -> Iterator[int]:
    for count, path in enumerate(folder.rglob("*")):
        if path.is_symlink():
            name = shown(path.relative_to(folder))
            raise refused(description, f"{name} is a link. Copy the folder with its content: cp -rL.")
        if count >= _MOST_FILES:
            raise refused(description, f"it holds more than {_MOST_FILES:,} files.")
        if path.is_file():
            yield path.stat().st_size
        elif not path.is_dir():
            raise refused(description, f"{shown(path.relative_to(folder))} is no regular file.")


def _parsed(folder: Path, description: str) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    for name in _OTHER_FORMS:
        if (folder / name).exists():
            raise refused(description, f"it is stored as {name}, which is not read. Save it as saved_model.pb, alone.")
    path = folder / "saved_model.pb"
    if path.stat().st_size > _LARGEST_GRAPH:
        raise unreadable(description, _KIND, "its graph is larger than 2 GB.")
    content = saved_model_pb2.SavedModel()
    content.ParseFromString(path.read_bytes())
    return content


def _nodes(graph_def: Any) -> Iterator[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _declared_bytes(node: Any) -> int:
    """What the constants of a node take in memory."""
    return sum(
        math.prod(max(0, axis.size) for axis in tensor.tensor_shape.dim) * 8
        for value in node.attr.values()
        for tensor in (value.tensor, *value.list.tensor)
        if tensor.dtype
    )
