"""`dynamarks inspect`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamarks_tf._support import strict_json
from dynamarks_tf._support.own_files import read_regular
from dynamarks_tf.cli.output import json_option, load_tensorflow, print_json
from dynamarks_tf.cli.own_model import load_own_model, own_model_options
from dynamarks_tf.errors import FormatError, ModelError
from dynamarks_tf.keys.key import FORMAT as KEY_FORMAT
from dynamarks_tf.keys.key import MarkKey, is_encrypted

if TYPE_CHECKING:
    import keras

KERAS_SUFFIXES = (".keras", ".h5")
_LARGEST = 64 << 20  # bytes of a JSON file


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@own_model_options
@json_option
def inspect(path: Path, modules: tuple[str, ...], unsafe_load: bool, as_json: bool) -> None:
    """Describe PATH: a key, a model and its mark, evidence.

    Prints JSON, with or without --json, and nothing secret.

    \b
      dynamarks inspect marked.keras
      dynamarks inspect acme.key
    """
    if path.is_dir() or path.suffix in KERAS_SUFFIXES:
        load_tensorflow()
    if path.suffix in KERAS_SUFFIXES and (modules or unsafe_load):
        print_json(describe_model(load_own_model(path, modules, unsafe_load)))
        return
    print_json(describe_file(path))


def describe_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describes a file or folder of this package or of Keras.

    Args:
        path: a key file, another JSON file that this package wrote, a `.keras` file, or a SavedModel folder.

    Returns:
        Public facts as plain values for JSON; the first entry, `kind`, says what it is.

    Raises:
        FormatError: it is none of these.
        DynaMarksError: it is, but cannot be read.

    Example:

    >>> describe_file("marked.keras")["mark"]["budget"]
    0.05
    """
    place = Path(path)
    if place.is_dir():
        return _saved_model(place)
    if place.suffix in KERAS_SUFFIXES:
        return _keras_model(place)
    return _json_file(place)


def _json_file(path: Path) -> dict[str, Any]:
    try:
        content: Any = _read(path)
    except (OSError, ValueError) as error:
        raise _unknown(path) from error
    kind = content.get("format") if isinstance(content, dict) else None
    if kind == KEY_FORMAT:
        if is_encrypted(content):  # what it says in the clear; whether that is true, only the passphrase shows
            public = {name: content.get(name) for name in ("owner", "client", "created", "key_id", "commitment")}
            return {"kind": "key", "encrypted": True, **{name: value for name, value in public.items() if value}}
        key = MarkKey.load(path)
        return {
            "kind": "key",
            "encrypted": False,
            "owner": key.owner,
            **({} if key.client is None else {"client": key.client}),
            "created": key.created,
            "key_id": key.key_id,
            "commitment": key.commitment,
        }
    if not isinstance(kind, str) or not kind.startswith("dynamarks-"):
        raise _unknown(path)
    return {"kind": kind.removeprefix("dynamarks-"), **content}


def _read(path: Path) -> Any:
    return strict_json.parse(read_regular(path, _LARGEST))


def _keras_model(path: Path) -> dict[str, Any]:
    from dynamarks_tf.suspects.isolated import described

    if not path.is_file():
        raise ModelError(f"There is no Keras model file {path}.")
    facts: dict[str, Any] = described("dynamarks_tf.cli.inspect:describe_keras_file", path)
    return facts


def describe_keras_file(path: str, *, description: str) -> dict[str, Any]:
    """What `describe_file` says of a file of unknown origin, in a process of its own.

    Args:
        path: the file.
        description: its name in messages.
    """
    from dynamarks_tf.suspects.admission.keras_file import check_keras_file
    from dynamarks_tf.suspects.admission.refusals import RefusedError
    from dynamarks_tf.watermark import marking

    try:
        check_keras_file(Path(path), description)
    except RefusedError as error:
        raise ModelError(f"{error.reason} {marking.UNSAFE_LOAD}") from error
    return describe_model(marking.load_model(path))


def describe_model(model: keras.Model) -> dict[str, Any]:
    """Public facts of a Keras model and its mark, as `describe_file` gives them."""
    from dynamarks_tf.watermark import marking

    layer = marking.find_mark(model)
    mark = None
    if layer is not None:
        mark = {
            "scheme": layer.scheme,
            "key_id": layer.key_id,
            "budget": layer.budget,
            "tie_margin": layer.tie_margin,
            "amplitudes": layer.amplitudes,
            "from_logits": layer.from_logits,
            "is_blank": layer.is_blank,
        }
    return {
        "kind": "keras model",
        "name": model.name,
        "inputs": [list(tensor.shape) for tensor in getattr(model, "inputs", None) or []],
        "outputs": [list(tensor.shape) for tensor in getattr(model, "outputs", None) or []],
        "parameters": model.count_params(),
        "mark": mark,
    }


def _saved_model(path: Path) -> dict[str, Any]:
    from dynamarks_tf.suspects.isolated import IsolatedSuspect
    from dynamarks_tf.suspects.saved_model import highest_version

    with contextlib.closing(IsolatedSuspect("saved_model", highest_version(path))) as suspect:
        signature = suspect.signature
    assert signature is not None
    return {
        "kind": "saved model",
        "path": suspect.description,
        "input": signature.input,
        "input_shape": [None, *signature.shape] if signature.shape is not None else None,
        "input_type": str(signature.dtype),
        "outputs": list(signature.outputs),
    }


def _unknown(path: Path) -> FormatError:
    return FormatError(
        f"{path} is nothing that can be inspected: expected a key file, a JSON file that dynamarks wrote, a .keras "
        "file or a SavedModel folder."
    )
