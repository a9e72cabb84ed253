"""photos-20, -50, -100: small color patches of photographs. The class of a patch is the photograph it was cut from.

    make photos                              # fetches the photographs, then:
    python benchmarks/studies/photos.py      # 3 x 30,000 patches

THE CLASSES ARE PHOTOGRAPHS, NOT OBJECTS. The patches are natural images in color, 32 x 32 pixels, of 20, 50 and 100
classes. They measure how marks and evidence work on such inputs. To tell photographs apart by their colors and textures
is another task than to recognize objects: accuracies do not carry over to it.

The photographs are the 100 of `photos.tsv`, all from packages of Debian 12: 34 of wallpapers, 5 of a puzzle, 19 of
a drawing program, and 42 that come with libraries for images. They were chosen by eye: drawings, renderings, gradients,
gray photographs, plain surfaces and second copies are left out. (gnome-backgrounds and ukui-wallpapers hold no
photograph.) They stand in an order of no meaning, that of their SHA-256; the 20 classes are the first of the 50, and
these of the 100. Each photograph is scaled to about 650,000 pixels, the smallest ones enlarged, and cut into tiles of
80 x 80. Patches of the first half of the training images, of the second and of the test images come from different
tiles, at least 8 pixels apart. So do owner, attacker and test. A patch is a square of 36 to 72 pixels, anywhere in a
tile, scaled to 32 x 32. The same seed, photographs and release of Pillow make the same patches.

The photographs are downloaded, and are no part of this project; their packages state licenses and authors.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from benchmarks.studies import image_cache
from dynamarks_tf._support import files, progress
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

FORMAT = "dynamarks-photos"
FORMAT_VERSION = 1
NOTE = "patches of photographs; a class is a photograph, not an object"
LIST = Path(__file__).with_name("photos.tsv")
DATA = Path(__file__).parents[2] / ".data"
UNPACKED = DATA / "photographs"
CLASSES = (20, 50, 100)
TRAIN, TEST = 24_000, 6000  # patches of all classes together
AREA, TILE, MARGIN, SIZE = 1024 * 640, 80, 4, 32
SMALLEST = 36  # side of a patch before it is scaled
REGIONS = {"first half": (1, 2), "second half": (3, 4), "test": (0,)}  # remainders modulo 5


class Photo(NamedTuple):
    """A line of the list.

    Attributes:
        sha256: the first 16 digits of the SHA-256 of the file.
        package: Debian's package.
        path: of the file in it.
        shows: what the photograph shows.
    """

    sha256: str
    package: str
    path: str
    shows: str


def photos() -> list[Photo]:
    """The photographs, in the order of the classes."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return sorted(Photo(*line.split("\t")) for line in lines if not line.startswith("#"))


def cache_of(classes: int) -> Path:
    """The file that holds the patches of the first `classes` photographs."""
    return DATA / f"photos-{classes}" / f"photos-{classes}.npz"


def load(classes: int = CLASSES[-1], cache: Path | None = None) -> ImageData:
    """Loads the patches from the cache, or cuts them first.

    Args:
        classes: number of photographs.
        cache: the file; that of `cache_of` if omitted.

    Raises:
        DatasetError: photographs are missing, or the cache is damaged or of another version.
    """
    cache = cache or cache_of(classes)
    if not cache.exists():
        build(classes, cache)
    return image_cache.load(cache, f"photos-{classes}", NOTE, (FORMAT, FORMAT_VERSION))


def build(
    classes: int,
    cache: Path,
    *,
    folder: Path = UNPACKED,
    chosen: list[Photo] | None = None,
    seed: int = 0,
    train: int = TRAIN,
    test: int = TEST,
) -> None:
    """Cuts the patches and writes them to the cache.

    The patches of a photograph do not depend on how many others there are; with fewer classes there are more of each.

    Args:
        classes: number of photographs.
        cache: the `.npz` file to write (`image_cache`).
        folder: where the packages are unpacked.
        chosen: the photographs, if others than those of the list.
        seed: of everything random.
        train: training patches of all classes together.
        test: test patches of all classes together.

    Raises:
        DatasetError: photographs are missing or others.
    """
    chosen = (photos() if chosen is None else chosen)[:classes]
    if len(chosen) < classes:
        raise DatasetError(f"The list has {len(chosen)} photographs, not {classes}.")
    check(folder, chosen)
    counts = {"first half": train // classes // 2, "second half": train // classes // 2, "test": test // classes}
    cut: dict[str, list[Array]] = {region: [] for region in REGIONS}
    for number, photo in enumerate(progress.track(chosen, "cutting", classes, unit="photographs")):
        pixels = scaled(folder / photo.path)
        for place, (region, count) in enumerate(counts.items()):
            rng = np.random.default_rng([seed, number, place])
            cut[region].append(patches(pixels, REGIONS[region], count, rng))
    first, second, tested = (np.stack(each) for each in cut.values())
    about = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": f"photos-{classes}",
        "note": NOTE,
        "seed": seed,
        "photographs": [photo.path for photo in chosen],
        "pillow": PIL.__version__,
    }
    image_cache.save(cache, (first, second), tested, about, seed)


def check(folder: Path, chosen: list[Photo]) -> None:
    """Checks that the photographs are there and are those of the list.

    Raises:
        DatasetError: they are not; the message has the command that fetches them.
    """
    missing = [photo for photo in chosen if not (folder / photo.path).is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} photograph(s) are not under {folder}, the first: {missing[0].path}. `make photos` fetches "
            f"them on Debian 12. Elsewhere, unpack these packages of Debian 12 there: {' '.join(packages(missing))}"
        )
    for photo in chosen:
        if files.file_sha256(folder / photo.path)[:16] != photo.sha256:
            raise DatasetError(
                f"{folder / photo.path} is another file than the one that was chosen: its SHA-256 does not begin with "
                f"{photo.sha256}. The list holds the packages of Debian 12 (bookworm)."
            )


def packages(chosen: list[Photo]) -> list[str]:
    """Names of the packages that hold the photographs."""
    return sorted({photo.package for photo in chosen})


def scaled(file: Path) -> Image.Image:
    """A photograph with about `AREA` pixels, in its own proportions."""
    image: Image.Image
    with Image.open(file) as image:
        factor = (AREA / (image.width * image.height)) ** 0.5
        size = round(image.width * factor), round(image.height * factor)
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def patches(image: Image.Image, remainders: tuple[int, ...], count: int, rng: np.random.Generator) -> Array:
    """Cuts patches from some of the tiles of a photograph.

    Args:
        image: the photograph.
        remainders: of (column + 2 row) modulo 5, which name the tiles.
        count: number of patches.
        rng: draws tiles, sizes and places.

    Returns:
        uint8 of shape `(count, 32, 32, 3)`.
    """
    columns, rows = image.width // TILE, image.height // TILE
    tiles = [(x, y) for y in range(rows) for x in range(columns) if (x + 2 * y) % 5 in remainders]
    found = np.empty((count, SIZE, SIZE, 3), np.uint8)
    room = TILE - 2 * MARGIN
    for place in range(count):
        column, row = tiles[rng.integers(len(tiles))]
        side = int(rng.integers(SMALLEST, room + 1))
        left, top = rng.integers(0, room - side + 1, 2)
        left, top = column * TILE + MARGIN + left, row * TILE + MARGIN + top
        patch = image.crop((left, top, left + side, top + side))  # alone, so that no filter reaches beyond it
        found[place] = np.asarray(patch.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", action="store_true", help="print the names of Debian's packages and exit")
    parser.add_argument("--folder", type=Path, default=UNPACKED, help="where the packages are unpacked")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.packages:
        print(*packages(photos()))
        return
    try:
        for classes in CLASSES:
            build(classes, cache_of(classes), folder=options.folder, seed=options.seed)
    except DatasetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
