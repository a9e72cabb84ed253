"""Exported folders are signed and checked with OpenSSF's model-signing; the statement travels inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dynamarks_tf.cli.main import main
from dynamarks_tf.errors import ExportError
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.keys.commitment import Statement, commit
from dynamarks_tf.keys.key import MarkKey
from tests.helpers import GOLDEN

STATEMENT = GOLDEN / "valid" / "statement-timestamped.json"


@pytest.fixture(scope="module")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A local key: private and public half."""
    folder = tmp_path_factory.mktemp("signing")
    key = ec.generate_private_key(ec.SECP256R1())
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "private.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder / "private.pem", folder / "public.pem"


def test_a_folder_is_signed_with_its_statement_and_every_change_shows(
    classifier: keras.Model, version: Path, signing_key: tuple[Path, Path], tmp_path: Path
) -> None:
    from model_signing import signing, verifying

    export_saved_model(classifier, version, statement=STATEMENT, warmup=np.ones((1, 4)))
    inside = version / "assets.extra" / "statement.json"
    assert Statement.load(inside) == Statement.load(STATEMENT)  # its timestamp too
    assert len(list(inside.parent.iterdir())) == 3
    assert "serving_default" in tf.saved_model.load(str(version)).signatures
    signature = tmp_path / "clf-1.sig"
    signing.Config().use_elliptic_key_signer(private_key=signing_key[0]).sign(version, signature)

    def check() -> None:
        verifying.Config().use_elliptic_key_verifier(public_key=signing_key[1]).verify(version, signature)

    check()
    for changed in (inside, version / "saved_model.pb"):
        content = changed.read_bytes()
        changed.write_bytes(content[:-1] + b"?")
        with pytest.raises(ValueError, match="mismatch"):
            check()
        changed.write_bytes(content)
    (version / "assets.extra" / "more").write_bytes(b"")
    with pytest.raises(ValueError, match="mismatch|more"):
        check()


def test_a_statement_that_is_not_there_or_of_another_key_or_file_is_refused(
    classifier: keras.Model, version: Path, key: MarkKey, other_key: MarkKey, tmp_path: Path, capsys: Any
) -> None:
    import dynamarks_tf as dm

    with pytest.raises(ExportError, match=r"Cannot read the statement .*none\.json: No such file"):
        export_saved_model(classifier, version, statement=tmp_path / "none.json")
    dm.mark(classifier, key).save(tmp_path / "marked.keras")
    commit(other_key).save(tmp_path / "other.json")
    export = ["export", str(tmp_path / "marked.keras"), str(version.parent), "--statement"]
    assert main([*export, str(tmp_path / "other.json")]) == 2
    assert f"is marked with the key {key.key_id}. Give the statement of the key" in capsys.readouterr().err
    assert main([*export, str(STATEMENT)]) == 2
    assert "The statement is about a model file with SHA-256" in capsys.readouterr().err
    commit(key, model=tmp_path / "marked.keras").save(tmp_path / "s.json")
    assert main([*export, str(tmp_path / "s.json")]) == 0
    assert Statement.load(version / "assets.extra" / "statement.json").key_id == key.key_id
