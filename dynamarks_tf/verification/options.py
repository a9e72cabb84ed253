"""Options of `verify` that belong together: how the suspect is asked, and what is written into the bundle."""

from __future__ import annotations

import dataclasses
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamarks_tf.errors import ArgumentError
from dynamarks_tf.evidence.answer_scale import SCALES
from dynamarks_tf.evidence.answers import check_class_names
from dynamarks_tf.keys.commitment import Statement


@dataclasses.dataclass(frozen=True)
class SuspectOptions:
    """How a suspect is asked, and how its answers are read.

    Args:
        from_logits: whether the suspect answers logits; the same as `scale="logit"`.
        labels: whether the suspect answers labels only. Said beforehand, a test that cannot succeed is refused at once;
            otherwise it is seen from the answers.
        class_names: names of the owner's classes in their order, for a suspect that answers names.
        scale: what the suspect's numbers are: `"probability"`, `"percent"`, `"byte"` (0 to 255), `"log"` (of
            probabilities), `"sigmoid"` (scores of each class against the rest) or `"logit"`.
        signature: name of the signature to call, of a suspect that has several.
        output: name of the output to read, of a suspect that has several.
        input: name of the input, of a server of the Open Inference Protocol that does not describe it.
        datatype: type of that input in the protocol, such as `"FP32"`.
        batch_size: how many inputs are asked at once.
        align_classes: whether the suspect's order of classes is found from the answers: for one that orders or
            numbers its classes otherwise, or has other classes besides.
        timeout_s: seconds that a remote suspect may take for one batch; a model file may take ten times as long.
        rate: the largest number of queries a second; batches are made small enough. `None`: no limit.
        api_key_header: name of the header that carries the key in the variable DYNAMARKS_API_KEY to a remote suspect;
            by default it is sent as `Authorization: Bearer KEY`.
        run_untrusted_code: whether a model file may hold more than layers and arithmetic, such as `Lambda` layers or
            operators that read files (docs/security-suspects.md).

    Raises:
        ArgumentError: a value is outside its range.

    Example:

    >>> dm.verify(url, owner=marked, key=key, queries=x, suspect_options=dm.SuspectOptions(rate=10, timeout_s=60))
    """

    from_logits: bool = False
    labels: bool = False
    class_names: Sequence[str] | None = None
    signature: str | None = None
    output: str | None = None
    batch_size: int = 256
    timeout_s: float = 30.0
    rate: float | None = None
    api_key_header: str | None = None
    scale: str = "probability"
    align_classes: bool = False
    input: str | None = None
    datatype: str | None = None
    run_untrusted_code: bool = False

    def __post_init__(self) -> None:
        batch_size = whole_number("batch_size", self.batch_size, 1)
        _check_above_zero("timeout_s", self.timeout_s, "seconds")
        if self.rate is not None:
            _check_above_zero("rate", self.rate, "queries a second")
            batch_size = min(batch_size, max(1, int(self.rate)))
        object.__setattr__(self, "batch_size", batch_size)
        if self.scale not in SCALES:
            raise ArgumentError(f"`scale` must be one of {', '.join(SCALES)}. Received: scale={self.scale!r}")
        if self.from_logits and self.scale not in ("probability", "logit"):
            raise ArgumentError(
                f"`from_logits` says that the suspect answers logits, and `scale` another. Received: "
                f"scale={self.scale!r}"
            )
        object.__setattr__(self, "scale", "logit" if self.from_logits else self.scale)
        object.__setattr__(self, "from_logits", self.scale == "logit")
        object.__setattr__(self, "labels", bool(self.labels))
        object.__setattr__(self, "align_classes", bool(self.align_classes))
        object.__setattr__(self, "run_untrusted_code", bool(self.run_untrusted_code))

    def for_classes(self, num_classes: int, activation: str = "softmax") -> SuspectOptions:
        """The same options, checked against the owner's classes.

        Raises:
            ArgumentError: there are more or fewer names than classes, they are no names, or there is no order of
                classes to find.
        """
        if self.align_classes and activation == "sigmoid":
            raise ArgumentError(
                "`align_classes` (--align-classes) finds the order of the classes of a softmax; the owner model ends "
                "in sigmoids, each an answer of its own. Wrap the suspect in a callable that puts its scores into the "
                "owner's order."
            )
        if self.class_names is None:
            return self
        return dataclasses.replace(self, class_names=check_class_names(self.class_names, num_classes))


@dataclasses.dataclass(frozen=True)
class BundleOptions:
    """Where the evidence bundle is written, and what it holds beside the test itself.

    Args:
        path: the file to write; it must not exist. While the test runs, the answers are kept in a folder beside it;
            after an interruption, the same call goes on from there.
        statement: the published commitment. `verify` checks that the key opens it, and that it is about the owner's
            model file, if it is about one at all.
        include_queries: whether the bundle holds the inputs, not just their digest.
        reveal_key: whether the bundle holds the key. Anybody with the key can forge and strip the mark.
        extends: the bundle of a sequential test whose answers are taken over; more questions follow.

    Raises:
        ArgumentError: the path is a folder, or there is a file already.

    Example:

    >>> dm.verify(url, owner=marked, key=key, queries=x, bundle=dm.BundleOptions("bundle.zip", statement=statement))
    """

    path: str | os.PathLike[str]
    statement: Statement | None = None
    include_queries: bool = False
    reveal_key: bool = False
    extends: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        text = os.fspath(self.path)
        path = Path(text)
        if path.exists() or text.endswith(("/", os.sep)):
            is_folder = path.is_dir() or not path.exists()
            what = "is a folder" if is_folder else "exists; evidence is not overwritten"
            raise ArgumentError(f"`bundle` {text} {what}. Name another file.")
        object.__setattr__(self, "path", path)


def whole_number(name: str, value: Any, smallest: int) -> int:
    """Returns an argument that must be a whole number.

    Raises:
        ArgumentError: it is none, or too small.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < smallest:
        raise ArgumentError(f"`{name}` must be a whole number, at least {smallest}. Received: {name}={value!r}")
    return int(value)


def _check_above_zero(name: str, value: Any, unit: str) -> None:
    if not isinstance(value, numbers.Real) or not 0 < float(value) < float("inf"):
        raise ArgumentError(f"`{name}` must be a number of {unit} above 0. Received: {name}={value!r}")
