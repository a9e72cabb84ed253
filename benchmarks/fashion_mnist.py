"""Fashion-MNIST for the studies, which say nothing about other images."""

from __future__ import annotations

import sys

from dynamarks_tf import datasets


def load() -> datasets.ImageData:
    """Loads Fashion-MNIST, or ends the process with the reason why not."""
    images = datasets.load_images()
    if images.name != "Fashion-MNIST":
        sys.exit(f"This study is about Fashion-MNIST; found are only {images.name} ({images.source}). See `make data`.")
    return images
