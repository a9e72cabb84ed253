"""Two thefts that take the mark back, on one owner model of Fashion-MNIST: how little is left, and at what accuracy?

    python benchmarks/studies/knowing_attacker.py --models DIR    # 20 minutes on one core; DIR keeps the owner model

The owner model is that of `independent_models.py`. The attacker sends 20,000 images and trains a separable CNN for 6
epochs. *Signs subtracted*: a model of the labels tells which class was raised, and the raise is taken back. *Two
clients*: their keys differ, and the smaller probability of each class is kept, or the mean. Beside them stand the
thefts of all probabilities and of labels alone. The attacks were built on other data (`robustness.py digits-mixed`,
seed 100).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.studies import fashion_mnist
from benchmarks.studies.independent_models import SEED, IndependentModels
from dynamarks_tf.audit.attack_runner import AttackRunner
from dynamarks_tf.audit.results import Results, read
from dynamarks_tf.audit.scenario import crossed
from dynamarks_tf.watermark.layer import SCHEME

RESULTS = Path(__file__).parent / "results" / "knowing-attacker.json"
SENT, EPOCHS, TRUE_LABELS = 20_000, 6, 3000
THEFTS = ("full", "labels", "signs subtracted", "two clients, smallest", "two clients averaged")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder that keeps the owner model's weights")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results; rows that are there stay")
    options = parser.parse_args()
    images, models = fashion_mnist.load(), IndependentModels(options.models)
    runner = AttackRunner(
        models.owner,
        pool=models.stolen[:SENT],
        pool_labels=models.stolen_labels[:SENT],
        labeled=(images.x_test[:TRUE_LABELS], images.y_test[:TRUE_LABELS]),
        fresh=(images.x_test[TRUE_LABELS:], images.y_test[TRUE_LABELS:]),
        seed=SEED,
        epochs=EPOCHS,
        verbose=False,
    )
    settings = {"scheme": SCHEME, "seed": SEED, "sent": SENT, "epochs": EPOCHS}
    runner.run(crossed(THEFTS, ["none", "fine-tune all"], ["separable_cnn"]), Results(options.out, settings))
    for row in read(options.out)["rows"]:
        if "findings" in row:
            found = {name: round(finding["log10_p"], 1) for name, finding in row["findings"].items()}
            print(row["extraction"], row["removal"], round(row["accuracy"], 3), found)


if __name__ == "__main__":
    main()
