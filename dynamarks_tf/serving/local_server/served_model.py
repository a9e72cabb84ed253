"""One loaded version of a model, run through a v1 session, the runtime of TensorFlow Serving."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2, tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

# Session.run() refuses a request whose shape differs from the declared one, which TensorFlow Serving does not compare.
# The step below Session.run() is not public; no other module calls it.
from tensorflow.python.client import pywrap_tf_session

from dynamarks_tf import foreign_text
from dynamarks_tf.errors import ServingError
from dynamarks_tf.export.inference_graph import quiet_tensorflow
from dynamarks_tf.serving.protocol.limits import MOST_ROWS
from dynamarks_tf.serving.protocol.status import Code, StatusError, invalid
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE, Array, from_proto

LOG = foreign_text.logger(__name__)

SERVE_TAG = "serve"
LOOP_OPS = frozenset({"While", "StatelessWhile", "Enter", "RefEnter"})
OWN_THREAD = -1  # of `RunOptions.inter_op_thread_pool`: operations run in the calling thread
PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


@dataclass(frozen=True)
class Signature:
    """One callable entry of a model.

    Attributes:
        definition: names, dtypes and shapes, as exported.
        inputs: the graph's tensors to feed, by input name.
        outputs: the graph's tensors to fetch, by output name.
    """

    definition: meta_graph_pb2.SignatureDef
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class ServedModel:
    """A SavedModel in memory. All methods may be called from many threads at once.

    Args:
        path: the version's folder, which holds `saved_model.pb`.
        name: the name clients ask for.
        version: the number clients ask for.

    Raises:
        ServingError: the folder holds no SavedModel with tag "serve", or a damaged one.
    """

    def __init__(self, path: Path, *, name: str, version: int) -> None:
        self.path = path
        self.name = name
        self.version = version
        graph = tf.Graph()
        config = tf.compat.v1.ConfigProto()
        config.gpu_options.allow_growth = True  # a training process may use the same GPU
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            meta_graph = _load(self._session, path)
        except Exception as error:  # the loader has no error type of its own
            self._session.close()
            raise ServingError(
                f"{path} cannot be loaded as a SavedModel: {str(error).splitlines()[0]} Export the model again, for "
                f'example with dynamarks_tf.export_saved_model(model, "{path}").'
            ) from error
        # This is faster, and many requests at once keep all cores busy. But such a run cannot be interrupted.
        self._runs_in_own_thread = not any(node.op in LOOP_OPS for node in _nodes(meta_graph))
        self.signatures = {key: _locate(graph, value) for key, value in meta_graph.signature_def.items()}
        for problem in production_problems(meta_graph):
            LOG.warning("%s: %s", path, problem)

    def predict(
        self,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        *,
        signature_name: str = DEFAULT_SIGNATURE,
        output_filter: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Runs one signature.

        Args:
            inputs: values by input name. Their shapes are not compared with the declared ones.
            signature_name: which signature to run.
            output_filter: the outputs to compute; all if empty.
            timeout_s: seconds after which the run is stopped; no limit if `None`.

        Returns:
            The outputs by name.

        Raises:
            StatusError: as TensorFlow Serving answers the same request.
        """
        signature = self.signatures.get(signature_name)
        if signature is None:
            raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
        feeds = _feeds(signature, inputs)
        names = _output_names(signature, output_filter)
        fetches = [_point(signature.outputs, name) for name in names]
        return dict(zip(names, self._run(feeds, fetches, timeout_s), strict=True))

    def close(self) -> None:
        """Frees the memory; runs under way are canceled."""
        self._session.close()

    def _run(self, feeds: dict[Any, Array], fetches: list[Any], timeout_s: float | None) -> list[Array]:
        try:
            with self._run_options(timeout_s) as options:
                results = self._session._call_tf_sessionrun(options, feeds, fetches, [], None)
        except tf.errors.OpError as error:
            raise StatusError(Code(error.error_code), error.message) from error
        return [np.asarray(result, object if isinstance(result, bytes) else None) for result in results]  # scalars too

    @contextlib.contextmanager
    def _run_options(self, timeout_s: float | None) -> Iterator[Any]:
        options = tf.compat.v1.RunOptions()
        if timeout_s is not None:
            options.timeout_in_ms = max(1, round(timeout_s * 1000))
        if self._runs_in_own_thread:
            options.inter_op_thread_pool = OWN_THREAD
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            yield buffer
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)


def production_problems(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[str]:
    """Lists the parts of a model that run in the local server and fail in TensorFlow Serving."""
    nodes = _nodes(meta_graph)
    parts = [*meta_graph.graph_def.library.function, *nodes]
    problems = []
    if any("_XlaMustCompile" in part.attr and part.attr["_XlaMustCompile"].b for part in parts):
        problems.append("a function is marked jit_compile=True; TensorFlow Serving fails on its first call")
    if any(node.op in PYTHON_OPS for node in nodes):
        problems.append("the model calls back into Python; TensorFlow Serving cannot run that")
    return problems


def _nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> list[node_def_pb2.NodeDef]:
    """Returns the nodes of the graph and of its functions."""
    functions = meta_graph.graph_def.library.function
    return [*meta_graph.graph_def.node, *(node for function in functions for node in function.node_def)]


def _load(session: tf.compat.v1.Session, path: Path) -> meta_graph_pb2.MetaGraphDef:
    with session.graph.as_default(), quiet_tensorflow():
        return tf.compat.v1.saved_model.loader.load(session, [SERVE_TAG], str(path))


def _locate(graph: tf.Graph, definition: meta_graph_pb2.SignatureDef) -> Signature:
    return Signature(definition, _points(graph, definition.inputs), _points(graph, definition.outputs))


def _points(graph: tf.Graph, infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, Any]:
    """Finds the dense tensors of `infos` in the graph; others, such as an init op, are left out."""
    points = {}
    for name, info in infos.items():
        with contextlib.suppress(KeyError, ValueError):
            points[name] = graph.get_tensor_by_name(info.name)._as_tf_output()
    return points


def _point(points: Mapping[str, Any], name: str) -> Any:
    try:
        return points[name]
    except KeyError:
        raise invalid(f'"{name}" is not a dense tensor of the graph and can be neither fed nor fetched') from None


def _feeds(signature: Signature, given: Mapping[str, tensor_pb2.TensorProto]) -> dict[Any, Array]:
    inputs, defaults = signature.definition.inputs, signature.definition.defaults
    _check_input_names(signature.definition, set(given))
    feeds = {}
    for name in inputs:
        tensor = given[name] if name in given else defaults[name]
        if tensor.tensor_shape.dim and tensor.tensor_shape.dim[0].size > MOST_ROWS:
            raise invalid(
                f"{name} has {tensor.tensor_shape.dim[0].size} rows; at most {MOST_ROWS} are answered at once. Send "
                "several requests."
            )
        try:
            feeds[_point(signature.inputs, name)] = from_proto(tensor)
        except ValueError:
            raise invalid(f"tensor parsing error: {name}") from None
    return feeds


def _check_input_names(definition: meta_graph_pb2.SignatureDef, given: set[str]) -> None:
    wanted, defaults = set(definition.inputs), set(definition.defaults)
    if len(given) > len(wanted) or (len(given) < len(wanted) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({_names(given)}) != "
            f"len({_names(wanted)}). Sent extra: {_names(given - wanted)}. "
            f"Missing but required: {_names(wanted - given)}."
        )
    missing = sorted(wanted - given - defaults)
    if missing:
        raise invalid(
            f"Signature input alias: {missing[0]}(feed name: {definition.inputs[missing[0]].name}) not found in "
            f"request and no default value provided. Inputs expected to be in the request {_names(given)}, or default "
            f"input alias set: {_names(defaults)}"
        )
    if given - wanted:
        raise invalid(f"Inputs contains invalid name. Sent extra: {_names(given - wanted)}")


def _output_names(signature: Signature, output_filter: Sequence[str]) -> list[str]:
    names = list(signature.definition.outputs)
    for index, name in enumerate(output_filter):
        if name not in names:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_names(set(names))}."
            )
        if name in output_filter[:index]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return list(output_filter) or names


def _names(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
