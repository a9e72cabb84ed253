"""The export runs where neither this package nor Keras exists, and the way TensorFlow Serving runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

WITHOUT_US = """
    import sys

    for name in ("keras", "tf_keras", "dynamarks_tf"):
        sys.modules[name] = None  # importing it raises ModuleNotFoundError
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.tools import saved_model_cli

    loaded = tf.saved_model.load(sys.argv[1])
    x = tf.constant(np.load("pixels.npy"))
    np.save("loaded.npy", loaded.signatures["serving_default"](pixels=x)["probabilities"])
    sys.argv[1:] = ["run", "--dir", sys.argv[1], "--tag_set", "serve", "--signature_def", "serving_default"]
    sys.argv += ["--inputs", "pixels=pixels.npy", "--outdir", "."]
    saved_model_cli.main()
"""


def test_runs_without_keras_and_this_package_and_in_the_command_line_of_tensorflow(
    convolutional_case: Any, tmp_path: Path
) -> None:
    inputs = convolutional_case.inputs(3)
    np.save(tmp_path / "pixels.npy", inputs["pixels"])
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_US), str(convolutional_case.path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for answers in ("loaded.npy", "probabilities.npy"):
        np.testing.assert_allclose(np.load(tmp_path / answers), convolutional_case.answers(inputs), atol=1e-6)


def test_runs_in_a_session_with_feeds_and_fetches(exported: Any) -> None:
    """Stock TensorFlow Serving loads the graph by tag, restores it and runs it in a session."""
    inputs = exported.inputs(2)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported.path))
        signature = meta_graph.signature_def["serving_default"]
        feeds = {signature.inputs[alias].name: values for alias, values in inputs.items()}
        answers = session.run(signature.outputs["probabilities"].name, feeds)
    assert signature.method_name == "tensorflow/serving/predict"
    tolerance = 2e-3 if "readings" in inputs else 1e-6
    np.testing.assert_allclose(answers, exported.answers(inputs), atol=tolerance)
    tags = [set(graph.meta_info_def.tags) for graph in meta_graphs(exported.path)]
    assert tags == [{"serve"}]


def meta_graphs(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
