"""The log of a gateway, read without TensorFlow and without code of the package: the wire format alone."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from tests.helpers.waiting import eventually


class Copy(NamedTuple):
    """One prediction of a log.

    Attributes:
        client: the client's name, "" if unknown.
        request: the serialized request.
        response: the serialized answer.
        version: the version that answered, 0 if unknown.
    """

    client: str
    request: bytes
    response: bytes
    version: int

    def tensor(self, side: str = "request") -> bytes:
        """The content of the only tensor of one side."""
        number, data = (2, self.request) if side == "request" else (1, self.response)
        tensor = fields(fields(fields(data)[number])[2])
        return bytes(tensor.get(4) or tensor[8])


def fields(data: bytes) -> dict[int, Any]:
    """The last field of each number in a message, unparsed."""
    return {field.field_number: field.data for field in UnknownFieldSet(empty_pb2.Empty.FromString(data))}


def read_log(folder: Path) -> list[Copy]:
    """Returns what a gateway has logged to a folder, in the order of writing."""
    found = []
    for path in sorted(folder.glob("*.tfrecord")):
        data, offset = path.read_bytes(), 0
        while offset + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            if offset + 12 + length + 4 > len(data):
                break  # it is being written
            record = fields(data[offset + 12 : offset + 12 + length])
            metadata, pair = fields(record[1]), fields(record[6])
            version = fields(fields(metadata.get(1, b"")).get(2, b"")).get(1, 0)
            found.append(Copy(metadata.get(6, b"").decode(), pair.get(1, b""), pair.get(2, b""), version))
            offset += 12 + length + 4
    return found


def logged(folder: Path, count: int = 1, client: str | None = None) -> list[Copy]:
    """Waits until a log holds so many predictions, of one client or of all, and returns them."""

    def found() -> list[Copy]:
        return [copy for copy in read_log(folder) if client in (None, copy.client)]

    eventually(lambda: len(found()) >= count)
    return found()
