"""Mark a trained classifier and export it for TensorFlow Serving.

    python examples/mark_and_export.py --out my-release [--data FOLDER] [--epochs 2]

Leaves in the output folder: the secret key, the marked model, the statement to publish, and served/classifier/1 for
TF Serving.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras

import dynamarks_tf as dm
from dynamarks_tf.datasets import load_images


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the results")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, mode=0o700)

    # Your training goes here; nothing about it changes.
    images = load_images(arguments.data)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(images.x_train.shape[1:], name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(images.num_classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images.x_train, images.y_train, batch_size=128, epochs=arguments.epochs, verbose=0)

    # 1. A key. Keep the file secret, keep a backup.
    key = dm.MarkKey.generate(owner="ACME Vision")
    key.save(arguments.out / "acme.key")

    # 2. The mark.
    marked = dm.mark(model, key, budget=0.05)
    for name, which in (("clean", model), ("marked", marked)):
        _, accuracy = which.evaluate(images.x_test, images.y_test, verbose=0)
        print(f"accuracy of the {name} model: {accuracy:.4f}")
    marked.save(arguments.out / "marked.keras")
    dm.commit(key, model=arguments.out / "marked.keras").save(arguments.out / "statement.json")
    print("publish this, dated by somebody else, before a suspect appears:", arguments.out / "statement.json")

    # 3. The files for TensorFlow Serving.
    path = dm.export_saved_model(marked, arguments.out / "served" / "classifier" / "1", warmup=images.x_test[:8])
    print("exported", path)


if __name__ == "__main__":
    main()
