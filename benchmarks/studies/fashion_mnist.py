"""Fashion-MNIST for the studies whose results hold for these images only."""

from __future__ import annotations

import sys

from dynamarks_tf import datasets


def load() -> datasets.ImageData:
    """Loads Fashion-MNIST, or ends the process with the reason why not."""
    images = datasets.load_images()
    if images.name != "Fashion-MNIST":
        sys.exit(f"This study needs Fashion-MNIST; only {images.name} was found ({images.source}). See `make data`.")
    return images
