"""Secrecy: key, codebook and clean answers are in no file or output that outsiders can read.

One sequence runs once, with every logger at DEBUG: mark, save, export, serve, predict, malformed requests, verify,
bundle. The tests then search its outputs for each secret in each form that it might take.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import os
import stat
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamarks_tf as dm
from dynamarks_tf.case import bundle as bundles
from dynamarks_tf.errors import DynaMarksError
from dynamarks_tf.keys.key import BoundKey
from dynamarks_tf.recheck import public_summary, recheck
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.watermark import codebook
from dynamarks_tf.watermark.layer import DynaMarkLayer
from dynamarks_tf.watermark.marking import find_mark
from tests.helpers import small_classifier, verifying
from tests.helpers.tflite import operators

SECRET = bytes(range(32))  # that of the session's key
_WINDOW = 24  # bytes or values of a table that are enough to tell it
_CONTROL_FLOW = {
    "If",
    "StatelessIf",
    "While",
    "StatelessWhile",
    "Case",
    "StatelessCase",
    "Switch",
    "RefSwitch",
    "Merge",
}
Forms = dict[str, list[bytes]]


def written_forms(values: np.ndarray) -> list[bytes]:
    """Forms in which a part of a table may be written: its bytes, its sign bits, its values as text."""
    part = values.ravel()[:_WINDOW]
    texts = [separator.join(map(str, part.tolist())) for separator in (",", ", ", " ", "\n")]
    bits = np.packbits(values.ravel()[: 8 * _WINDOW] > 0, bitorder="little")
    whole = [np.ascontiguousarray(values.ravel()[: len(part)]).tobytes()]
    packed = [bits.tobytes()] if values.size >= 8 * _WINDOW and len(set(bits.tolist())) > 2 else []
    return [*whole, *packed, *(text.encode() for text in texts)]


def key_forms() -> Forms:
    encoded = base64.b64encode(SECRET), base64.urlsafe_b64encode(SECRET)
    texts = [encoding[start : start + 12] for encoding in encoded for start in (0, 12, 24)]
    return {"key": [SECRET, SECRET.hex().encode(), repr(SECRET).encode(), *texts, b"0, 1, 2, 3, 4, 5, 6, 7"]}


def sign_forms(key: BoundKey) -> Forms:
    book = codebook.expand(key, 10, dm.MarkParams())
    return {
        "signs": written_forms(book.class_signs),
        "amplitude signs": written_forms(book.amplitude_signs),
        "tie signs": written_forms(book.tie_signs),
        "class-choice signs": written_forms(book.class_choice_signs),
        "target classes": [
            *written_forms(book.target_classes),
            *written_forms(book.target_classes.astype(np.int8)),
        ],  # a table of the layer
    }


def keyed_hash_forms(key: BoundKey) -> Forms:
    keyed_hash = codebook.expand(key, 10, dm.MarkParams()).keyed_hash
    return {"offsets": written_forms(keyed_hash.offsets), "multipliers": written_forms(keyed_hash.multipliers)}


def clean_forms(clean: np.ndarray, released: np.ndarray) -> Forms:
    """Clean answers that differ from the released ones: their bytes, and their largest values to seven digits."""
    changed = np.abs(clean - released).max(axis=1) > 1e-3
    rows = clean[changed]
    assert len(rows) > 20
    texts = [f"{value:.9f}"[:9].encode() for value in rows.max(axis=1) if value < 0.999]
    return {"clean answers": [*(row.tobytes() for row in rows), *texts]}


def secrets_in(data: bytes | str, *forms: Forms) -> list[str]:
    """Names of the secrets that some data hold."""
    content = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    return [name for one in forms for name, written in one.items() if any(form in content for form in written)]


@dataclasses.dataclass
class Outputs:
    """The outputs of the sequence, by name."""

    folder: Path
    marked: Any
    secrets: tuple[Forms, ...]
    keyed_hash: Forms
    clean: Forms
    seen: dict[str, bytes]
    evidence: dm.VerificationResult

    @property
    def all(self) -> tuple[Forms, ...]:
        return (*self.secrets, self.keyed_hash, self.clean)


def raised_by(action: Callable[[], Any]) -> str:
    """Message and traceback of an error that an action raises; empty if it raises none."""
    try:
        action()
    except Exception as error:  # Keras and NumPy raise many types for wrong values
        return "".join(traceback.format_exception(error))
    return ""


def tree(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture(scope="module")
def story(owner_model, digits, key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    x = digits.x_test[:200]
    try:
        marked = dm.mark(owner_model, key)
        marked.save(folder / "marked.keras")
        served = dm.export_saved_model(marked, folder / "served" / "clf" / "1", warmup=x[:3])
        dm.export_tflite(marked, folder / "marked.tflite")
        key.save(folder / "acme.key")
        seen = {}
        with LocalServer(served.parent, grpc_port=0, rest_port=0, request_log=folder / "logs") as server:
            seen["predictions"] = requests.post(f"{server.rest_url}:predict", json={"instances": x.tolist()}).content
            seen["metadata"] = requests.get(f"{server.rest_url}/metadata").content
            seen["status"] = requests.get(server.rest_url).content
            seen["metadata over gRPC"] = grpc_metadata(server)
            nonsense = [
                {"instances": "x"},
                {"instances": [[1, 2]]},
                {"inputs": {"clean": 1}},
                {"signature_name": "train"},
            ]
            answers = [requests.post(f"{server.rest_url}:predict", json=body) for body in nonsense]
            assert {answer.status_code for answer in answers} <= {400, 404, 500}
            seen["errors of the server"] = b"".join(answer.content for answer in answers)
            evidence = verifying.verify(
                server.grpc_url, owner=marked, key=key, queries=x, logged=True, bundle=folder / "bundle.zip"
            )
        seen["request logs"] = tree(folder / "logs")
        seen["evidence"] = json.dumps(evidence.to_dict()).encode() + repr(evidence).encode()
        seen["published of a bundle"] = json.dumps(public_summary(recheck(folder / "bundle.zip"))).encode()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    seen["logs at DEBUG"] = written.getvalue().encode()
    clean, released = (np.asarray(model(x)) for model in (owner_model, marked))
    bound = key.bind(find_mark(marked).model_sha256)
    secrets = (key_forms(), sign_forms(bound))
    return Outputs(folder, marked, secrets, keyed_hash_forms(bound), clean_forms(clean, released), seen, evidence)


def grpc_metadata(server: LocalServer) -> bytes:
    import grpc
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "clf"
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return bytes(stub.GetModelMetadata(request, timeout=20).SerializeToString())


def test_the_search_detects_secrets_where_they_are(story, key, owner_model, digits):
    """Key file and weights hold secrets by design; a search without hits there would have none anywhere."""
    assert secrets_in((story.folder / "acme.key").read_bytes(), *story.all) == ["key"]
    with zipfile.ZipFile(story.folder / "marked.keras") as archive:
        weights = archive.read("model.weights.h5")
    tables = [
        "amplitude signs",
        "tie signs",
        "target classes",
        "offsets",
        "multipliers",
    ]  # they replace the class signs
    assert secrets_in(weights, *story.all) == tables
    assert secrets_in(tree(story.folder / "served" / "clf" / "1" / "variables"), *story.all) == tables
    lite = (story.folder / "marked.tflite").read_bytes()  # the converter transposes the multipliers
    assert secrets_in(lite, *story.all) == tables[:-1]
    clean = json.dumps(np.asarray(owner_model(digits.x_test[:200])).tolist())
    assert secrets_in(clean, *story.all) == ["clean answers"]
    assert secrets_in(
        json.dumps(
            codebook.expand(key.bind(find_mark(story.marked).model_sha256), 10, dm.MarkParams())
            .class_signs.ravel()
            .tolist()
        ),
        *story.all,
    ) == ["signs"]


@pytest.mark.parametrize(
    "name",
    [
        "predictions",
        "metadata",
        "status",
        "metadata over gRPC",
        "errors of the server",
        "request logs",
        "evidence",
        "published of a bundle",
        "logs at DEBUG",
    ],
)
def test_what_outsiders_see_holds_no_secret(story, name):
    assert len(story.seen[name]) > 20
    assert secrets_in(story.seen[name], *story.all) == []


def test_the_graph_of_a_saved_model_and_the_configuration_of_a_keras_file_hold_no_tables(story):
    folder = story.folder / "served" / "clf" / "1"
    graph = b"".join((folder / name).read_bytes() for name in ("saved_model.pb", "fingerprint.pb"))
    assert secrets_in(graph, *story.all) == []
    with zipfile.ZipFile(story.folder / "marked.keras") as archive:
        others = {name: archive.read(name) for name in archive.namelist() if name != "model.weights.h5"}
    assert {"config.json", "metadata.json"} <= set(others)
    configs = [
        story.marked.to_json(),
        repr(story.marked.get_build_config()),
        repr(find_mark(story.marked).get_config()),
    ]
    assert secrets_in(b"".join(others.values()), *story.all) == []
    assert secrets_in("".join(configs), *story.all) == []


def test_no_signature_gives_clean_answers_or_can_be_switched_to_them(story, digits):
    loaded = tf.saved_model.load(str(story.folder / "served" / "clf" / "1"))
    assert set(loaded.signatures) == {"serving_default"}
    signature = loaded.signatures["serving_default"]
    assert set(signature.structured_input_signature[1]) == {"image"}
    answer = signature(image=tf.constant(digits.x_test[:50]))
    assert set(answer) == {"probabilities"}
    np.testing.assert_allclose(answer["probabilities"], story.marked(digits.x_test[:50]), atol=1e-6)


def test_a_bundle_without_the_key_holds_neither_key_nor_signs(story):
    """It holds keyed hash and clean answers, as docs/secrecy.md states, and is private."""
    with bundles.Bundle(story.folder / "bundle.zip") as bundle:
        members = b"".join(bundle.read(name) for name in bundle.manifest["members"])
    assert bundles.KEY not in bundle.manifest["members"]
    assert secrets_in(members, *story.secrets) == []
    assert secrets_in(members, story.keyed_hash, story.clean) == ["offsets", "multipliers", "clean answers"]


def test_files_with_secrets_are_private(story):
    """Except for files of Keras: `model.save` leaves modes to the umask, `dynamarks mark` sets them."""
    paths = [story.folder / name for name in ("acme.key", "bundle.zip", "marked.tflite")]
    for part in ("served/clf/1", "logs"):
        paths += [story.folder / part, *(story.folder / part).rglob("*")]
    assert len(paths) > 8
    modes = {path: stat.S_IMODE(os.stat(path).st_mode) for path in paths}
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_no_object_shows_secrets_when_it_is_printed(story, key):
    layer = DynaMarkLayer(key)
    book = codebook.expand(key, 10, dm.MarkParams())
    summary = io.StringIO()
    story.marked.summary(print_fn=lambda line: summary.write(line))
    shown = [
        repr(one) + str(one) for one in (key, layer, find_mark(story.marked), book, book.keyed_hash, story.evidence)
    ]
    assert secrets_in("".join(shown) + summary.getvalue(), *story.all) == []


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_key_file_is_not_quoted(data, key):
    """After any damage, message and traceback hold no eight characters of the secret."""
    content = key.to_json()
    start = data.draw(st.integers(0, len(content)), label="start")
    stop = data.draw(st.integers(start, min(len(content), start + 40)), label="stop")
    damaged = content[:start] + data.draw(st.binary(max_size=8), label="put") + content[stop:]
    text = raised_by(lambda: dm.MarkKey.from_json(damaged, "acme.key"))
    encoded = base64.b64encode(SECRET).decode()
    windows = [encoded[first : first + 8] for first in range(len(encoded) - 8)]
    assert [window for window in windows if window in text] == []


WRONG_ARGUMENTS = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)


@settings(max_examples=30)
@given(
    name=st.sampled_from(["budget", "tie_margin", "amplitudes", "table_rows", "table_columns", "from_logits", "name"]),
    value=WRONG_ARGUMENTS,
)
def test_errors_about_wrong_settings_do_not_quote_the_key(name, value, key):
    assert secrets_in(raised_by(lambda: DynaMarkLayer(key, **{name: value}).build((None, 3))), key_forms()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"queries": np.zeros((5, 3, 3, 1))},
        {"queries": np.zeros((0, 8, 8, 1))},
        {"suspect": lambda batch: np.full((len(batch), 10), np.nan)},
        {"suspect": lambda batch: np.zeros((len(batch), 3)) + 1 / 3},
        {"owner": small_classifier},
    ],
    ids=["shape", "none", "NaN", "classes", "no model"],
)
def test_errors_of_verify_do_not_quote_key_codebook_or_clean_answers(wrong, story, owner_model, digits, key):
    arguments = {"suspect": owner_model, "owner": story.marked, "queries": digits.x_test[:200], **wrong}
    with pytest.raises(DynaMarksError) as caught:
        verifying.verify(arguments.pop("suspect"), key=key, **arguments)
    assert secrets_in("".join(traceback.format_exception(caught.value)), *story.all) == []


@pytest.mark.parametrize("num_classes", [2, 10, 100, 2000])
@pytest.mark.parametrize("from_logits", [False, True])
def test_all_answers_take_the_same_path_for_all_secret_signs(num_classes, from_logits, key):
    """No operation branches on data: sign and class only choose which table entry is read and multiplied."""
    layer = DynaMarkLayer(key, from_logits=from_logits)
    traced = tf.function(layer).get_concrete_function(tf.TensorSpec((None, num_classes)))
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert len(nodes) > 20
    assert {node.op for node in nodes} & _CONTROL_FLOW == set()


def test_exported_files_do_not_branch_either(story):
    from tensorflow.core.protobuf import saved_model_pb2

    content = (story.folder / "served" / "clf" / "1" / "saved_model.pb").read_bytes()
    functions = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def.library.function
    serving = [function for function in functions if "serv" in function.signature.name]
    assert serving
    assert {node.op for function in serving for node in function.node_def} & _CONTROL_FLOW == set()
    assert {"IF", "WHILE", "CALL_ONCE"} & set(operators((story.folder / "marked.tflite").read_bytes())) == set()
