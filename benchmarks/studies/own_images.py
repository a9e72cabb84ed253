"""Would a mark survive on these images? One command for CIFAR-10, or for a folder of images as ImageNet's.

    python benchmarks/studies/own_images.py cifar10 --out audit-cifar10
    python benchmarks/studies/own_images.py /data/imagenet --image-size 64 --max-images 300000 --out audit-imagenet
    python benchmarks/studies/own_images.py photos/ --image-size 32 --quick --out audit-photos

A folder holds train/CLASS/*.jpg with val/CLASS/*.jpg or test/CLASS/*.jpg, or CLASS/*.jpg alone; other sets are those
that `dynamarks audit --data` takes (docs/datasets.md). An owner model is trained on one half of the training images.
The attacker has the other half, and fine-tunes on some of the test images with their true labels. `--out` then holds
the report of `dynamarks audit`, the results and the pictures. An interrupted run goes on from there, with the same
owner.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from dynamarks_tf import datasets
from dynamarks_tf.attacks.architectures import ARCHITECTURES
from dynamarks_tf.attacks.extraction import train_classifier
from dynamarks_tf.audit.audit import AuditResult, run_audit
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.datasets.image_data import balanced_order
from dynamarks_tf.errors import DynaMarksError

OWNER, EPOCHS = "resnet", 10


def study(images: ImageData, out: Path, *, owner: str = OWNER, epochs: int = EPOCHS, **options: Any) -> AuditResult:
    """Trains an owner model on half of the images, and audits it with the other half.

    Args:
        images: the images.
        out: folder of the owner model, the results and the report.
        owner: name of the owner's architecture.
        epochs: passes of the owner over its half.
        **options: further arguments of `run_audit`.
    """
    order = balanced_order(images.y_train, seed=0)
    x, y = images.x_train[order], images.y_train[order]
    half = len(x) // 2
    path = out / "owner.keras"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        model = ARCHITECTURES[owner](x.shape[1:], images.num_classes)
        train_classifier(model, x[:half], y[:half], epochs=epochs, verbose=True, description="training the owner")
        model.save(path)
    rest = dataclasses.replace(images, x_train=x[half:], y_train=y[half:])
    return run_audit(path, rest, out, verbose=True, **options)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="cifar10, fashion-mnist, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of owner model, results and report")
    parser.add_argument("--image-size", type=int, help="side to which images of a folder are brought  [default: 64]")
    parser.add_argument("--max-images", type=int, help="a balanced sample of so many  [default: 1 GiB of a folder]")
    parser.add_argument("--owner", choices=ARCHITECTURES, default=OWNER, help=f"architecture  [default: {OWNER}]")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of the owner model  [default: {EPOCHS}]")
    parser.add_argument("--quick", action="store_true", help="a few attacks in minutes, in place of all in hours")
    parser.add_argument("--seed", type=int, action="append", help="repeatable  [default: 0]")
    parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one for each core")
    options = parser.parse_args(arguments)
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    size = None if options.image_size is None else (options.image_size, options.image_size)
    try:
        images = datasets.load(options.data, image_size=size, max_images=options.max_images, verbose=True)
        attacks = {"is_quick": options.quick, "seeds": options.seed or [0]}
        study(images, options.out, owner=options.owner, epochs=options.epochs, **attacks)
    except DynaMarksError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
