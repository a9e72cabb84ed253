"""The evidence bundle: one file that holds all that is needed to recompute a result.

A bundle is a ZIP archive without compression. Its members, besides those of the recording (`recording`):

    manifest.json    format, version, digest of every other member, the owner's signature over all that
    evidence.json    the result; aggregates only, may be published
    keyed_hash.npz   which secret signs each output gets; secret, but holds no sign
    pairs.npz        between which classes the signs of the class-choice channel chose, if it was tested; secret
    residuals.npz    the table of each channel
    met_before.npz   of logged queries: which secret signs count as met before the first of them; secret
    parties.npz      which secret signs count for which client, if clients of a log were told apart; secret
    trace.json       what was found for each client, if clients were told apart
    selection.npz    which of the inputs that were given were asked, if not all
    draw.npz         of a draw from a committed pool: what the clean model says of all inputs drawn
    statement.json   the published commitment, if there is one
    statement.tsr    its RFC 3161 timestamp, if it has one
    key.json         the key, only if its owner wants to reveal it

The archive's comment ends in the SHA-256 of everything before that digest, so that a change of any byte shows. The
bundle of a detection gives the sign tables away cell by cell: it is confidential, and written with mode 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dynamarks_tf._support import digests
from dynamarks_tf._support.archives import Archive
from dynamarks_tf._support.files import PRIVATE_FILE, file_sha256, new_file
from dynamarks_tf._support.formats import check_format
from dynamarks_tf._support.own_files import open_regular
from dynamarks_tf._support.strict_json import read_json
from dynamarks_tf.errors import BundleError

FORMAT = "dynamarks-bundle"
FORMAT_VERSION = 5
MANIFEST = "manifest.json"
EVIDENCE = "evidence.json"
KEYED_HASH = "keyed_hash.npz"
PAIRS = "pairs.npz"
RESIDUALS = "residuals.npz"
MET_BEFORE = "met_before.npz"
SELECTION = "selection.npz"
DRAW = "draw.npz"
PARTIES = "parties.npz"
TRACE = "trace.json"
STATEMENT = "statement.json"
TIMESTAMP = "statement.tsr"
KEY = "key.json"
_COMMENT = b"dynamarks-bundle sha256 "
_DIGEST_SIZE = 64
_LARGEST_DIRECTORY = 2**25  # bytes; of a test asked one by one, each query takes about 150
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP knows: when a bundle was written is in its records


def write_bundle(
    path: str | os.PathLike[str],
    members: Mapping[str, bytes],
    files: Iterable[tuple[str, Path]],
    *,
    commitment: str,
    public_key: str,
    sign: Callable[[bytes], str],
) -> None:
    """Writes a bundle in one step, readable by its owner only.

    Args:
        path: the file to write.
        members: content of members by name.
        files: names and paths of members that are files.
        commitment: commitment to the owner's key.
        public_key: the key that the signature can be checked with, base64.
        sign: signs bytes, giving base64.

    Raises:
        FileExistsError: the file exists.
    """
    member_digests: dict[str, str] = {}
    with new_file(path, overwrite=False) as temporary:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
            for name, source in files:
                member_digests[name] = file_sha256(source)
                archive.writestr(_info(name), source.read_bytes())
            for name, content in members.items():
                member_digests[name] = hashlib.sha256(content).hexdigest()
                archive.writestr(_info(name), content)
            manifest = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "commitment": commitment,
                "public_key": public_key,
                "members": member_digests,
            }
            signed = {**manifest, "signature": sign(manifest_bytes(manifest))}
            archive.writestr(_info(MANIFEST), json.dumps(signed, indent=2).encode())
            archive.comment = _COMMENT + b"0" * _DIGEST_SIZE
        with open(temporary, "r+b") as file:
            digest = _digest_before_comment(file)
            file.seek(-_DIGEST_SIZE, os.SEEK_END)
            file.write(digest.encode())


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """What the signature is over: the manifest without its signature."""
    unsigned = {name: value for name, value in manifest.items() if name != "signature"}
    return digests.json_digest(unsigned).encode()


class Bundle:
    """An evidence bundle that is known to be whole: every byte is as it was written.

    Args:
        path: the file.

    Attributes:
        manifest: the content of `manifest.json`.

    Raises:
        BundleError: the file cannot be read, is no bundle, is of another version, or was changed; the message says
        what.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._archive = Archive(self.path, is_packed=False, largest_directory=_LARGEST_DIRECTORY, most=sys.maxsize)
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.path} cannot be read as an evidence bundle: {error}") from error
        try:
            self.manifest = self._read_manifest()
            self._check_members()
            self._check_every_byte()
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> bytes:
        """Returns the content of a member.

        Raises:
            BundleError: there is none of that name, or it cannot be read.
        """
        try:
            return self._archive.read(name)
        except (OSError, ValueError) as error:
            if name not in self._archive.names:
                raise BundleError(f"{self.path} has no member {name}; it is incomplete.") from None
            raise BundleError(f"{self.path}: the member {name} was changed ({error}).") from error

    def read_json(self, name: str) -> Any:
        """Returns the content of a JSON member.

        Raises:
            BundleError: there is none of that name, or it is no JSON.
        """
        return read_json(self.read(name), f"{self.path}: the member {name}", "JSON", error=BundleError)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["members"]

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()

    def _read_manifest(self) -> dict[str, Any]:
        found = self.read_json(MANIFEST) if MANIFEST in self._archive.names else None
        source = f"{self.path}, {MANIFEST}"
        return check_format(
            found, FORMAT, FORMAT_VERSION, source, "an evidence bundle", schema="manifest", error=BundleError
        )

    def _check_members(self) -> None:
        expected = self.manifest["members"]
        names = self._archive.names
        missing, added = sorted({*expected} - {*names}), sorted({*names} - {*expected, MANIFEST})
        if missing or added:
            what = f"{missing[0]} is missing" if missing else f"{added[0]} was added"
            raise BundleError(f"{self.path} does not hold the members of its manifest: {what}.")
        for name, digest in expected.items():
            found = hashlib.sha256(self.read(name)).hexdigest()
            if found != digest:
                raise BundleError(
                    f"{self.path}: the member {name} was changed: its SHA-256 is {found}, the manifest says {digest}."
                )

    def _check_every_byte(self) -> None:
        with open_regular(self.path) as file:
            digest = _digest_before_comment(file)
            written = file.read(_DIGEST_SIZE)
        if not self._archive.comment.startswith(_COMMENT) or written != digest.encode():
            raise BundleError(
                f"{self.path} was changed outside of its members: the file's SHA-256 up to its last 64 bytes is "
                f"{digest}, those say {written.decode('ascii', 'replace')}."
            )


def _digest_before_comment(file: Any) -> str:
    """SHA-256 of an open file but for its last 64 bytes; the file is left there."""
    size = file.seek(0, os.SEEK_END) - _DIGEST_SIZE
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        block = file.read(min(size, 1 << 20))
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = PRIVATE_FILE << 16
    return info
