"""Header blocks (HPACK, RFC 7541), decoded and encoded by python-hyper's `hpack`.

Both peers are told that their encoder gets no dynamic table. Without one, equal blocks have equal fields at all times
and on all connections, so decoded fields are cached by the bytes of the block. Sent blocks use the static table only,
so they can be cached for all receivers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import hpack

from dynamarks_tf.serving.gateway.http2_frames import Http2Error, Problem

logging.getLogger("hpack").setLevel(logging.INFO)  # its debug messages hold the headers with the clients' keys

MAX_LIST_BYTES = 2**14  # of a decoded block, as HTTP/2 counts it; what gRPC accepts as well
REMEMBERED_BLOCKS = 1024
REMEMBERED_BYTES = 2048  # larger blocks are not remembered

Fields = list[tuple[bytes, bytes]]
T = TypeVar("T")


class BlockReader(Generic[T]):
    """Reads blocks that come without a dynamic table. May be shared by connections.

    Args:
        interpret: makes a value of the fields of a block; the value must depend on nothing else.
    """

    def __init__(self, interpret: Callable[[Fields], T]) -> None:
        self.interpret = interpret
        self._remembered = functools.lru_cache(REMEMBERED_BLOCKS)(self._read)

    def read(self, block: bytes) -> T:
        """Returns the value of the block.

        Raises:
            Http2Error: the block is malformed.
        """
        return self._remembered(block) if len(block) <= REMEMBERED_BYTES else self._read(block)

    def _read(self, block: bytes) -> T:
        decoder = hpack.Decoder(MAX_LIST_BYTES)
        decoder.header_table_size = decoder.max_allowed_table_size = 0
        return self.interpret(_decode(decoder, block))


class ConnectionReader(Generic[T]):
    """Reads the blocks of one connection, in order.

    Args:
        stateless: reads the blocks after the peer has given up its dynamic table.
    """

    def __init__(self, stateless: BlockReader[T]) -> None:
        self._stateless = stateless
        self._decoder = hpack.Decoder(MAX_LIST_BYTES)

    @property
    def is_stateless(self) -> bool:
        """Whether the peer has given up its dynamic table."""
        return self._decoder.header_table_size == 0

    def read(self, block: bytes) -> T:
        """Returns the value of the block.

        Raises:
            Http2Error: the block is malformed. Later blocks cannot be read then.
        """
        if self.is_stateless:
            return self._stateless.read(block)
        return self._stateless.interpret(_decode(self._decoder, block))


def _decode(decoder: hpack.Decoder, block: bytes) -> Fields:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.OversizedHeaderListError:
        raise Http2Error(Problem.ENHANCE_YOUR_CALM, "the headers are too large") from None
    except Exception:  # the library raises various errors for a malformed block
        raise Http2Error(Problem.COMPRESSION_ERROR, "a header block is malformed") from None


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Returns a block that uses no dynamic table."""
    literal = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in fields]
    return hpack.Encoder().encode(literal, huffman=False)
