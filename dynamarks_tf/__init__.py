"""Prove that a classifier was stolen through its prediction API.

>>> import dynamarks_tf as dm
>>> key = dm.MarkKey.generate(owner="ACME Vision")
>>> key.save("acme.key")
>>> marked = dm.mark(model, key, budget=0.05)           # outputs change at inference only
>>> dm.export_saved_model(marked, "served/clf/1")       # stock TensorFlow Serving loads it
>>> marked.save("marked.keras")
>>> dm.commit(key, model="marked.keras").save("statement.json")  # publish it
>>> result = dm.verify("suspect.keras", owner="marked.keras", key=key, queries=x)
>>> result.detected(alpha=1e-6), result.log10_p
(True, -21.4)

Importing this package loads neither Keras nor TensorFlow; names that need them do so on first use. As soon as Keras
is imported, by whomever, `DynaMarkLayer` is registered with it, so that `keras.models.load_model` reads marked models.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from dynamarks_tf._version import __version__

if TYPE_CHECKING:
    from dynamarks_tf.case.result import VerificationResult
    from dynamarks_tf.case.trace import TraceResult
    from dynamarks_tf.export import export_saved_model, export_tflite
    from dynamarks_tf.keys.commitment import Statement, commit
    from dynamarks_tf.keys.key import MarkKey
    from dynamarks_tf.report import write_report
    from dynamarks_tf.request_logs import open_log
    from dynamarks_tf.verification.drawing import Pool, committed_pool
    from dynamarks_tf.verification.options import BundleOptions, SuspectOptions
    from dynamarks_tf.verification.reduce_log import reduce_log
    from dynamarks_tf.verification.trace import trace
    from dynamarks_tf.verification.verify import verify
    from dynamarks_tf.watermark.callbacks import MarkReport, measure_cost
    from dynamarks_tf.watermark.layer import DynaMarkLayer
    from dynamarks_tf.watermark.marking import find_mark, mark, strip
    from dynamarks_tf.watermark.params import MarkParams

__all__ = [
    "BundleOptions",
    "DynaMarkLayer",
    "MarkKey",
    "MarkParams",
    "MarkReport",
    "Pool",
    "Statement",
    "SuspectOptions",
    "TraceResult",
    "VerificationResult",
    "__version__",
    "commit",
    "committed_pool",
    "export_saved_model",
    "export_tflite",
    "find_mark",
    "mark",
    "measure_cost",
    "open_log",
    "reduce_log",
    "strip",
    "trace",
    "verify",
    "write_report",
]

_HOME_OF = {
    "BundleOptions": "verification.options",
    "SuspectOptions": "verification.options",
    "TraceResult": "case.trace",
    "VerificationResult": "case.result",
    "DynaMarkLayer": "watermark.layer",
    "Evidence": "case.result",
    "MarkKey": "keys.key",
    "MarkParams": "watermark.params",
    "MarkReport": "watermark.callbacks",
    "Pool": "verification.drawing",
    "Statement": "keys.commitment",
    "commit": "keys.commitment",
    "committed_pool": "verification.drawing",
    "export_saved_model": "export",
    "export_tflite": "export",
    "find_mark": "watermark.marking",
    "mark": "watermark.marking",
    "measure_cost": "watermark.callbacks",
    "open_log": "request_logs",
    "reduce_log": "verification.reduce_log",
    "strip": "watermark.marking",
    "trace": "verification.trace",
    "verify": "verification.verify",
    "write_report": "report",
}


if not TYPE_CHECKING:  # a type checker that saw this would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_layer(_keras: Any) -> None:
    importlib.import_module(f"{__name__}.watermark.layer")


with contextlib.suppress(ModuleNotFoundError):  # where an expert rechecks a bundle there is no Keras, and no wrapt
    wrapt = importlib.import_module("wrapt")
    wrapt.register_post_import_hook(_register_layer, "keras")
