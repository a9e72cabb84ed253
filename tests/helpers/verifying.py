"""`dm.verify` with flat options, as most tests want it."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

import dynamarks_tf as dm
from dynamarks_tf.watermark import marking

_OF_SUSPECT = {field.name for field in dataclasses.fields(dm.SuspectOptions)} - {"from_logits", "labels"}
_OF_BUNDLE = {field.name for field in dataclasses.fields(dm.BundleOptions)} - {"path"}


def verify(
    suspect: Any,
    *,
    owner: Any,
    key: dm.MarkKey,
    params: dm.MarkParams | None = None,
    bundle: Any = None,
    suspect_from_logits: bool = False,
    suspect_labels: bool = False,
    **options: Any,
) -> dm.VerificationResult:
    """Sorts options into those of the suspect, of the bundle and of `verify` itself.

    Args:
        suspect: as for `dm.verify`.
        owner: as for `dm.verify`; with `params`, the clean model.
        key: as for `dm.verify`.
        params: settings that the clean owner model is marked with first.
        bundle: path of the bundle.
        suspect_from_logits: `from_logits` of `dm.SuspectOptions`.
        suspect_labels: `labels` of `dm.SuspectOptions`.
        **options: any other option of the three.
    """
    if params is not None:
        owner = marked_with(owner, key, params, from_logits=bool(options.pop("from_logits", False)))
    of_suspect = {name: options.pop(name) for name in _OF_SUSPECT & set(options)}
    of_bundle = {name: options.pop(name) for name in _OF_BUNDLE & set(options)}
    assert bundle is not None or not of_bundle, "options of a bundle need its path"
    return dm.verify(
        suspect,
        owner=owner,
        key=key,
        suspect_options=dm.SuspectOptions(from_logits=suspect_from_logits, labels=suspect_labels, **of_suspect),
        bundle=None if bundle is None else dm.BundleOptions(bundle, **of_bundle),
        **options,
    )


def marked_with(model: Any, key: dm.MarkKey, params: dm.MarkParams, *, from_logits: bool = False) -> Any:
    """A clean model, marked with settings; whatever is marked already, or is no model, as it is."""
    if not isinstance(model, keras.Model) or marking.find_mark(model) is not None:
        return model
    settings = {name: value for name, value in params.to_dict().items() if name != "budget"}
    return dm.mark(model, key, params.budget, from_logits=from_logits, **settings)
