"""A TFLite file as it lies on disk: operators and declared sizes, checked before an interpreter loads it."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects.admission.refusals import SMALL_ACTIVATION, check_declared, reading, refused, shown

_CUSTOM, _DELEGATE, _STABLEHLO_CUSTOM_CALL = 32, 51, 173
_ELEMENT = 4  # bytes


def check_tflite_file(path: Path, description: str) -> None:
    """Checks that a TFLite model has operators of the runtime only, and no sizes out of proportion.

    Args:
        path: the file.
        description: description of the suspect.

    Raises:
        SuspectError: it has custom operators, such as those of TensorFlow (`Flex`), files beside it, or cannot be read.
    """
    stored = path.stat().st_size
    with reading(description, "a TFLite model"):
        model = _schema().Model.GetRootAs(path.read_bytes(), 0)
        _check_operators(model, description)
        largest = max((_declared(model.Subgraphs(i)) for i in range(model.SubgraphsLength())), default=0)
        outside = getattr(model, "ExternalBuffersLength", int)()
    if outside:
        raise refused(description, "its tensors lie in other files.")
    check_declared(description, largest, stored, "a tensor of it", small=SMALL_ACTIVATION)


def _check_operators(model: Any, description: str) -> None:
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number in (_CUSTOM, _DELEGATE, _STABLEHLO_CUSTOM_CALL):
            name = (code.CustomCode() or b"").decode("ascii", "replace")
            raise refused(description, f"it has the custom operator {shown(name)}, which the runtime does not bring.")


def _declared(graph: Any) -> int:
    """Bytes of the largest tensor of a graph."""
    tensors = (graph.Tensors(index) for index in range(graph.TensorsLength()))
    sizes = (
        math.prod(max(1, tensor.Shape(axis)) for axis in range(tensor.ShapeLength())) * _ELEMENT for tensor in tensors
    )
    return max(sizes, default=0)


def _schema() -> Any:
    for name in ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise SuspectError("The schema of TFLite files is missing. Install a runtime: pip install 'dynamarks_tf[tflite]'.")
