"""Small SavedModels written with TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

ECHOED = [
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "half",
]


def signature(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    return tf.function(function).get_concrete_function(**named)


def spec(dtype: Any, shape: Any = (None,)) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def save_zoo(path: Path, *, scale: float = 1.0) -> None:
    """Writes a softmax classifier with many further signatures; `scale` makes versions differ."""
    module = tf.Module()
    weights = tf.reshape(tf.sin(tf.range(12, dtype=tf.float32)), (4, 3)) * scale
    module.weights = tf.Variable(weights)
    counter = lambda steps: tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (tf.constant(0, tf.int64),))  # noqa: E731
    signatures = {
        "serving_default": signature(
            lambda image: {"probabilities": tf.nn.softmax(image @ module.weights)}, image=spec(tf.float32, (None, 4))
        ),
        "combine": signature(
            lambda a, b: {"sum": a + tf.cast(b, tf.float32), "product": a * tf.cast(b, tf.float32)},
            a=spec(tf.float32),
            b=spec(tf.int32),
        ),
        "with_scalar": signature(lambda x: {"y": x, "total": tf.reduce_sum(x)}, x=spec(tf.float32)),
        "uneven": signature(lambda x: {"y": x, "tail": x[1:]}, x=spec(tf.float32)),
        "text": signature(lambda text: {"text": text}, text=spec(tf.string, None)),
        "text_twice": signature(lambda text: {"text": text, "raw_bytes": text}, text=spec(tf.string, None)),
        "count": signature(lambda steps: {"counted": counter(steps)[0]}, steps=spec(tf.int64, ())),
        "no_inputs": signature(lambda: {"answer": tf.constant([42])}),
        "missing_file": signature(lambda x: {"content": tf.io.read_file(x)}, x=spec(tf.string, ())),
        "half_out": signature(lambda x: {"y": tf.cast(x, tf.float16)}, x=spec(tf.float32)),
    }
    for dtype in ECHOED:
        signatures[f"echo_{dtype}"] = signature(lambda x: {"y": tf.identity(x)}, x=spec(dtype, None))
    tf.saved_model.save(module, str(path), signatures=signatures)


def save_factor(path: Path, factor: float, *, load_steps: int = 0) -> None:
    """Writes a model that multiplies by `factor`, and that counts to `load_steps` while it is loaded."""
    v1 = tf.compat.v1
    count = lambda steps: tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (tf.constant(0, tf.int64),))[0]  # noqa: E731
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None,))
        steps = v1.placeholder(tf.int64, ())
        predict = v1.saved_model.predict_signature_def
        signatures = {
            "serving_default": predict({"x": x}, {"y": x * factor}),
            "count": predict({"steps": steps}, {"counted": count(steps)}),
        }
        builder = v1.saved_model.Builder(str(path))
        main_op = count(tf.constant(load_steps, tf.int64)).op if load_steps else None
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, main_op=main_op, strip_default_attrs=True)
        builder.save()
