"""Trains a classifier on scikit-learn's digits and writes it into a folder, with its answers to some of them.

Run by the interpreter that serves the model later: `train.py FOLDER`.
"""

import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

folder = Path(sys.argv[1])
images, classes = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
model = LogisticRegression().fit(images[300:], classes[300:])
queries = images[:300]
joblib.dump(model, folder / "model.joblib")
np.savez(
    folder / "answers.npz",
    queries=queries,
    probabilities=model.predict_proba(queries),
    labels=model.predict(queries),
)
