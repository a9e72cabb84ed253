"""Steal a marked model, prove it, and let somebody else recompute the proof.

    python examples/verify_surrogate.py my-release [--data FOLDER] [--epochs 6]

Takes the folder that mark_and_export.py left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

import dynamarks_tf as dm
from dynamarks_tf.datasets import load_images
from dynamarks_tf.recheck import recheck


def main(argv: list[str] | None = None) -> dm.VerificationResult:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder that mark_and_export.py left")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args(argv)
    images = load_images(arguments.data)
    marked = keras.models.load_model(arguments.release / "marked.keras")  # importing dynamarks_tf is enough

    # What an attacker does: ask for answers, train on them.
    stolen_inputs = images.x_train[: len(images.x_train) // 2]
    answers = marked.predict(stolen_inputs, batch_size=256, verbose=0)
    keras.utils.set_random_seed(1)
    surrogate = keras.Sequential(
        [
            keras.Input(images.x_train.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(images.num_classes, activation="softmax"),
        ]
    )
    surrogate.compile("adam", "categorical_crossentropy")
    surrogate.fit(stolen_inputs, answers, batch_size=128, epochs=arguments.epochs, verbose=0)

    # What the owner does. Any unlabeled images of the domain will do as queries.
    result = dm.verify(
        surrogate,
        owner=arguments.release / "marked.keras",
        key=dm.MarkKey.load(arguments.release / "acme.key"),
        queries=images.x_test,
        max_queries=1000,
        bundle=dm.BundleOptions(
            arguments.release / "bundle.zip",
            statement=dm.Statement.load(arguments.release / "statement.json"),
            include_queries=True,  # so that both models can be asked again
        ),
    )
    print(result)
    print("mark found" if result.detected() else "mark not found")
    result.save(arguments.release / "evidence.json")

    # What the other side's expert does: NumPy and cryptography are enough. With the key, the secret signs are checked
    # too, and with the inputs, both models can be asked again.
    checked = recheck(arguments.release / "bundle.zip")
    print(*checked.steps, *checked.caveats, sep="\n")
    return result


if __name__ == "__main__":
    main()
