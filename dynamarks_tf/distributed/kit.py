"""The file that workers get: clean model, keyed hash and settings. It holds no key and no secret sign.

It is a ZIP archive. The keyed hash in it is secret nevertheless: it shows which queries a mark treats alike.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dynamarks_tf._support.archives import Archive
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.strict_json import read_json
from dynamarks_tf.errors import LogError
from dynamarks_tf.verification.clean_answers import clean_answers
from dynamarks_tf.verification.reducing import Marked, Reducer
from dynamarks_tf.watermark.keyed_hash import KeyedHash
from dynamarks_tf.watermark.params import MarkParams

FORMAT = "dynamarks-worker-kit"
FORMAT_VERSION = 1
HEAD, HASH, MODEL = "kit.json", "keyed_hash.npz", "model.keras"


def write(path: Path, model: keras.Model, marked: Marked, settings: Mapping[str, Any]) -> None:
    """Writes a kit.

    Args:
        path: the file.
        model: the clean model.
        marked: its keyed hash and settings of the mark.
        settings: `activation`, `from_logits`, `input`, `batch_size`, `modules` and `allow_code`, as JSON takes them.
    """
    head = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "model_sha256": marked.model_sha256,
        "params": dataclasses.asdict(marked.params),
        "input_shape": list(marked.input_shape),
        "takes_text": marked.takes_text,
        **settings,
    }
    arrays = io.BytesIO()
    np.savez(arrays, **{each.name: getattr(marked.keyed_hash, each.name) for each in dataclasses.fields(KeyedHash)})
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "x") as archive:
        model.save(Path(folder, MODEL))
        archive.writestr(HEAD, json.dumps(head))
        archive.writestr(HASH, arrays.getvalue())
        archive.write(Path(folder, MODEL), MODEL)


def reducer_from(path: str) -> Reducer:
    """A new reducer from a kit.

    Raises:
        LogError: a module that the model needs is missing on this machine, or the model cannot be loaded.
    """
    with Archive(path, most=sys.maxsize) as archive, tempfile.TemporaryDirectory() as folder:
        content = read_json(archive.read(HEAD), path, "a worker's kit", error=LogError)
        head = check_format(content, FORMAT, FORMAT_VERSION, path, "a worker's kit", error=LogError)
        with Archive(archive.read(HASH), is_packed=False) as arrays:
            keyed_hash = KeyedHash(**arrays.arrays())
        model_file = Path(folder, MODEL)
        model_file.write_bytes(archive.read(MODEL))
        try:
            for module in head["modules"]:
                importlib.import_module(module)
            model = keras.models.load_model(model_file, compile=False, safe_mode=not head["allow_code"])
        except Exception as error:  # Keras raises what the damaged part happens to raise
            raise LogError(f"The owner model cannot be loaded by a worker: {type(error).__name__}: {error}") from error

    def answers(batch: Any) -> Any:
        return clean_answers(model, batch, head["activation"], from_logits=head["from_logits"])

    params, shape = MarkParams(**head["params"]), tuple(head["input_shape"])
    marked = Marked(head["model_sha256"], answers, keyed_hash, params, shape, head["takes_text"])
    return Reducer(marked, input=head["input"], batch_size=head["batch_size"])
