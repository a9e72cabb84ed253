"""glyphs-1000: a thousand classes of rendered characters, because no photographs of a thousand classes are at hand.

    make glyphs                              # or, with Pillow installed:
    python benchmarks/studies/glyphs.py              # 70,000 images, about a minute on one core
    python benchmarks/studies/glyphs.py --packages   # Debian's packages that hold the fonts

THESE IMAGES ARE RENDERED, NOT PHOTOGRAPHED. They measure how marks and evidence scale with the number of classes.
Results do not carry over to natural images, nor accuracies to reading characters in photographs.

A class is one Chinese character. The characters are the first 1,000, in Big5's order (by number of strokes), of those
that Big5 level 1, GB 2312 level 1 and JIS X 0208 level 1 have in common and every typeface below can show. An image is
a character in a random typeface, turned, sheared, scaled, moved, sometimes thickened, blurred, of random contrast and
with noise; 32 x 32 pixels, bright on dark. The same seed, fonts and release of Pillow make the same images.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import math
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.studies import image_cache
from dynamarks_tf._support import files, progress
from dynamarks_tf.datasets import ImageData
from dynamarks_tf.errors import DatasetError

Array = npt.NDArray[Any]

FORMAT = "dynamarks-glyphs"
FORMAT_VERSION = 1
NAME = "glyphs-1000"
NOTE = "rendered from fonts, not photographed"
CACHE = Path(__file__).parents[2] / ".data" / NAME / f"{NAME}.npz"
FONTS = Path("/usr/share/fonts")
CLASSES, TRAIN, TEST = 1000, 60, 10
SIZE, CANVAS, FONT_SIZE = 32, 96, 74
ABSENT = "\U0010fffe"  # a code point that no font has: it shows what a font draws for a missing character

# Debian's package: file, or file#number for one face of a collection. One face for each design and weight.
FACES = {
    "fonts-arphic-bkai00mp": "bkai00mp.ttf",
    "fonts-arphic-bsmi00lp": "bsmi00lp.ttf",
    "fonts-arphic-gbsn00lp": "gbsn00lp.ttf",
    "fonts-arphic-gkai00mp": "gkai00mp.ttf",
    "fonts-arphic-ukai": "ukai.ttc",
    "fonts-arphic-uming": "uming.ttc",
    "fonts-babelstone-han": "BabelStoneHan.ttf",
    "fonts-cwtex-fs": "cwfs.ttf",
    "fonts-cwtex-heib": "cwheib.ttf",
    "fonts-cwtex-kai": "cwkai.ttf",
    "fonts-cwtex-ming": "cwming.ttf",
    "fonts-cwtex-yen": "cwyen.ttf",
    "fonts-dotgothic16": "DotGothic16-Regular.ttf",
    "fonts-hanazono": "HanaMinA.ttf",
    "fonts-ipafont-gothic": "ipag.ttf",
    "fonts-ipafont-mincho": "ipam.ttf",
    "fonts-kiloji": "kiloji.ttf",
    "fonts-lxgw-wenkai": "LXGWWenKai-Light.ttf LXGWWenKai-Bold.ttf",
    "fonts-migmix": "migmix-1p-regular.ttf migmix-1p-bold.ttf",
    "fonts-morisawa-bizud-gothic": "BIZUDGothic-Regular.ttf BIZUDGothic-Bold.ttf",
    "fonts-morisawa-bizud-mincho": "BIZUDMincho-Regular.ttf",
    "fonts-motoya-l-cedar": "MTLc3m.ttf",
    "fonts-motoya-l-maruberi": "MTLmr3m.ttf",
    "fonts-noto-cjk": "NotoSansCJK-Regular.ttc NotoSansCJK-Regular.ttc#2 NotoSansCJK-Bold.ttc NotoSerifCJK-Regular.ttc "
    "NotoSerifCJK-Regular.ttc#3 NotoSerifCJK-Bold.ttc",
    "fonts-noto-cjk-extra": "NotoSansCJK-Thin.ttc NotoSansCJK-Light.ttc NotoSansCJK-Medium.ttc NotoSansCJK-Black.ttc "
    "NotoSerifCJK-ExtraLight.ttc NotoSerifCJK-Medium.ttc NotoSerifCJK-Black.ttc",
    "fonts-sawarabi-gothic": "sawarabi-gothic-medium.ttf",
    "fonts-sawarabi-mincho": "sawarabi-mincho-medium.ttf",
    "fonts-seto": "setofont.ttf",
    "fonts-vlgothic": "VL-Gothic-Regular.ttf",
    "fonts-wqy-microhei": "wqy-microhei.ttc",
    "fonts-wqy-zenhei": "wqy-zenhei.ttc",
}
APT = "apt-get install -y --no-install-recommends"


@dataclasses.dataclass(frozen=True)
class Face:
    """One typeface: a font file, and the number of the face in it."""

    path: Path
    index: int = 0


def load(cache: Path = CACHE) -> ImageData:
    """Loads the images from the cache, or renders them first.

    Raises:
        DatasetError: fonts are missing, or the cache is damaged or of another version.
    """
    if not cache.exists():
        build(cache)
    return image_cache.load(cache, NAME, NOTE, (FORMAT, FORMAT_VERSION))


def build(
    cache: Path = CACHE,
    *,
    fonts: Path = FONTS,
    seed: int = 0,
    processes: int = 2,
    classes: int = CLASSES,
    train: int = TRAIN,
    test: int = TEST,
) -> None:
    """Renders the images and writes them to the cache.

    Each half of the training images, in order, holds equally many of each class.

    Args:
        cache: the `.npz` file to write: uint8 `x_train`, `x_test` of shape `(n, 32, 32)`; uint16 `y_train`, `y_test`;
            `about`, a JSON text with format, version, characters and the SHA-256 of each font.
        fonts: a folder with the fonts, searched with its subfolders.
        seed: of everything random; an image depends on seed and class only, not on the number of processes.
        processes: number of processes that render.
        classes: number of characters.
        train: training images of a class, an even number.
        test: test images of a class.

    Raises:
        DatasetError: fonts are missing, or share too few characters.
    """
    faces = find_faces(fonts)
    characters = choose_characters(faces, classes)
    tasks = [(character, faces, seed, number, train + test) for number, character in enumerate(characters)]
    print(f"{NAME}: rendering {classes:,} characters in {len(faces)} typefaces; {NOTE.upper()}.", file=sys.stderr)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        rendered = pool.map(_render_class, tasks, chunksize=8)
        shown = progress.track(rendered, "rendering", classes, unit="characters")
        images = np.stack(list(shown))
    half = train // 2
    about = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": NAME,
        "note": NOTE,
        "seed": seed,
        "characters": "".join(characters),
        "faces": [f"{face.path.name}#{face.index}" for face in faces],
        "font_sha256": {path.name: files.file_sha256(path) for path in sorted({face.path for face in faces})},
        "pillow": PIL.__version__,
    }
    image_cache.save(cache, (images[:, :half], images[:, half:train]), images[:, train:], about, seed)


def find_faces(fonts: Path = FONTS) -> list[Face]:
    """Finds the typefaces of `FACES` in a folder.

    Raises:
        DatasetError: files are missing; the message has the command that installs them.
    """
    found = {path.name: path for path in sorted(fonts.rglob("*.[ot]t[cf]"))}
    faces, missing = [], {}
    for package, names in FACES.items():
        for name, _, index in (text.partition("#") for text in names.split()):
            if name in found:
                faces.append(Face(found[name], int(index or 0)))
            else:
                missing.setdefault(package, name)
    if missing:
        raise DatasetError(
            f"{NAME} needs fonts that are not under {fonts}: {', '.join(missing.values())}. On Debian or Ubuntu:\n"
            f"    {APT} {' '.join(missing)}\nElsewhere, unpack these packages and name their folder with --fonts."
        )
    return faces


def choose_characters(faces: list[Face], count: int) -> list[str]:
    """The first `count` characters, in Big5's order, that three national standards and all typefaces share.

    Raises:
        DatasetError: there are fewer.
    """
    chosen = []
    fonts = [ImageFont.truetype(str(face.path), 24, index=face.index) for face in faces]
    lacking = [_mask(font, ABSENT) for font in fonts]
    for character in shared_characters():
        if all(_mask(font, character) not in (nothing, b"") for font, nothing in zip(fonts, lacking, strict=True)):
            chosen.append(character)
        if len(chosen) == count:
            return chosen
    raise DatasetError(f"The {len(faces)} typefaces share {len(chosen)} of the common characters, not {count}.")


def shared_characters() -> list[str]:
    """Characters that are common in three countries: level 1 of Big5, GB 2312 and JIS X 0208, in Big5's order."""
    big5 = _characters("big5", range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF)))
    gb = {*_characters("gb2312", range(0xB0, 0xD8), range(0xA1, 0xFF))}
    jis = {*_characters("euc_jp", range(0xB0, 0xD0), range(0xA1, 0xFF))}
    return [character for character in big5 if character in gb & jis]


def render(character: str, face: Face, rng: np.random.Generator) -> Array:
    """Draws one image, uint8 of shape `(32, 32)`."""
    angle, shear = math.radians(rng.uniform(-10, 10)), rng.uniform(-0.2, 0.2)
    wide, high = rng.uniform(0.75, 1.05, 2)
    right, down = rng.uniform(-7, 7, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.array([[wide, shear], [0, high]]))
    center = CANVAS / 2
    offset = np.array([center, center]) - inverse @ np.array([center + right, center + down])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    image = _glyph(character, face).transform(
        (CANVAS, CANVAS), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    if rng.random() < 1 / 3:
        image = image.filter(ImageFilter.MaxFilter(3))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
    dark, bright = rng.uniform(0, 60), rng.uniform(140, 255)
    pixels = dark + pixels / 255 * (bright - dark) + rng.normal(0, rng.uniform(4, 24), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _render_class(task: tuple[str, list[Face], int, int, int]) -> Array:
    character, faces, seed, number, count = task
    rng = np.random.default_rng([seed, number])
    return np.stack([render(character, faces[rng.integers(len(faces))], rng) for _ in range(count)])


@functools.lru_cache(maxsize=256)
def _glyph(character: str, face: Face) -> Image.Image:
    image = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(image)
    draw.text((CANVAS / 2, CANVAS / 2), character, 255, _font(face), anchor="mm")
    return image


@functools.lru_cache(maxsize=64)
def _font(face: Face) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(face.path), FONT_SIZE, index=face.index)


def _mask(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    mask = font.getmask(character)
    return bytes(mask) if mask.getbbox() else b""


def _characters(codec: str, first: range, second: Any) -> Iterator[str]:
    for pair in (bytes([a, b]) for a in first for b in second):
        try:
            yield pair.decode(codec)
        except UnicodeDecodeError:
            continue


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", action="store_true", help="print the names of Debian's font packages and exit")
    parser.add_argument("--fonts", type=Path, default=FONTS, help=f"folder with the fonts; default {FONTS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=CACHE)
    options = parser.parse_args()
    if options.packages:
        print(*FACES)
        return
    try:
        build(options.out, fonts=options.fonts, seed=options.seed, processes=options.processes)
    except DatasetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
