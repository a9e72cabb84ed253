"""What does a request log cost `verify`, whole and reduced? CPU seconds beside those of plainly reading it twice.

    python benchmarks/performance/log_reduction.py                      # 200,000 queries of 16 floats
    python benchmarks/performance/log_reduction.py --queries 1000000 --other ../another-checkout

The baseline reads the log twice with TensorFlow's TFRecordDataset, parses each message and makes an array of its
inputs. Each step runs in a process of its own; what it imports does not count. `--other` names another checkout of the
project, whose `verify` gets the same log.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FEATURES, CLASSES, CLIENTS = 16, 10, 7
STEPS = {"plain": "parsed twice, plainly", "reduce": "reduce", "full": "verify", "reduced": "verify, reduced log"}


def write(folder: Path, queries: int, files: int) -> None:
    """Writes key, models and a log of `queries` requests of one row each."""
    import keras
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    import dynamarks_tf as dm
    from dynamarks_tf.request_logs.prediction_log import encode
    from dynamarks_tf.request_logs.tf_record import frame

    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((FEATURES,)), dense(32, "tanh"), dense(CLASSES, "softmax")])
    key = dm.MarkKey(bytes(32), "Reduction")
    key.save(folder / "acme.key")
    dm.mark(model, key).save(folder / "marked.keras")
    keras.Sequential([keras.Input((FEATURES,)), dense(CLASSES, "softmax")]).save(folder / "suspect.keras")
    rng = np.random.default_rng(0)
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.version.value = "clf", 1
    for number in range(files):
        inputs = rng.normal(0, 2, (queries // files, 1, FEATURES)).astype(np.float32)
        answers = rng.dirichlet(np.ones(CLASSES), len(inputs))
        with (folder / f"requests-{number + 1:08}-20260102T000000Z.tfrecord").open("wb") as file:
            for index, (asked, answer) in enumerate(zip(inputs, answers.tolist(), strict=True)):
                request.inputs["x"].CopyFrom(tf.make_tensor_proto(asked))
                output = response.outputs["p"]
                output.CopyFrom(tf.make_tensor_proto(np.zeros((1, CLASSES), np.float32)))
                output.ClearField("tensor_content")  # servers send typed values
                output.float_val[:] = answer
                at = 1.7e9 + 0.01 * (number * len(inputs) + index)
                file.write(b"".join(frame(encode(request, response, client=f"client-{index % CLIENTS}", time=at))))


def measure(step: str, folder: Path) -> None:
    """Runs one step in this process and prints what it took."""
    import numpy as np
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    import dynamarks_tf as dm

    given = {"owner": folder / "marked.keras", "key": dm.MarkKey.load(folder / "acme.key")}
    tf.constant(0)
    begun, note = time.process_time(), ""
    if step == "plain":
        paths = sorted(map(str, folder.glob("*.tfrecord")))
        for data in tf.data.TFRecordDataset(paths * 2).as_numpy_iterator():
            (tensor,) = prediction_log_pb2.PredictionLog.FromString(data).predict_log.request.inputs.values()
            np.frombuffer(tensor.tensor_content, np.float32).reshape([dim.size for dim in tensor.tensor_shape.dim])
    elif step == "reduce":
        found = dm.reduce_log(folder, out=folder / "log.reduced", **given).reduction
        note = f"{len(found.queries)} of {found.num_queries} queries kept"
    else:
        log = dm.open_log(folder / "log.reduced" if step == "reduced" else folder)
        note = f"log10 p {dm.verify(folder / 'suspect.keras', queries=log, **given).log10_p!r}"
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:7.1f} s of CPU time, {peak:,.0f} MiB at the peak  {note}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=200_000, help="default 200,000")
    parser.add_argument("--files", type=int, default=10, help="default 10")
    parser.add_argument("--other", type=Path, help="another checkout, whose verify is measured too")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help="only this one, in this process")
    options = parser.parse_args()
    if options.step:
        measure(options.step[0], Path(options.step[1]))
        return
    here = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.queries, options.files)
        runs = [(step, label, here) for step, label in STEPS.items()]
        if options.other:
            runs.append(("full", "verify, other checkout", options.other.resolve()))
        for step, label, checkout in runs:
            print(f"{label:<24}", end="", flush=True)
            environ = {**os.environ, "PYTHONPATH": str(checkout)}
            subprocess.run([sys.executable, __file__, "--step", step, name], check=True, env=environ, cwd=name)


if __name__ == "__main__":
    main()
