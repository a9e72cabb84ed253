"""Frames of HTTP/2 in any pieces, and the bodies joined from them."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dynamarks_tf.serving.gateway import http2_frames as h2
from dynamarks_tf.serving.gateway.pieces import SMALL_BYTES, Pieces

Sent = tuple[int, int, int, bytes]


@st.composite
def frames(draw: st.DrawFn) -> Sent:
    kind = draw(st.sampled_from([h2.DATA, h2.DATA, h2.HEADERS, h2.PING]))
    flags = draw(st.sampled_from([0, h2.END_STREAM, h2.PADDED, h2.PADDED | h2.END_STREAM]))
    return kind, flags, draw(st.integers(1, 99)), draw(st.binary(max_size=60))


@given(st.lists(frames(), max_size=8), st.lists(st.integers(1, 80), min_size=1))
def test_frames_are_found_in_bytes_cut_anywhere(sent: list[Sent], sizes: list[int]) -> None:
    data = b"".join(h2.frame(*frame) for frame in sent)
    reader = h2.FrameReader()
    found: list[Sent] = []
    is_open = False
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        turn += 1
        for kind, flags, number, payload in reader.feed(data[:size]):
            if is_open:
                before = found.pop()
                assert (kind, number) == (h2.DATA, before[2])
                assert payload
                payload = before[3] + payload
            found.append((kind, flags, number, bytes(payload)))
            wanted = sent[len(found) - 1]
            is_open = len(payload) < len(wanted[3])
            assert flags == (0 if is_open else wanted[1]), "the end of a stream before its data"
        data = data[size:]
    assert found == sent


def test_data_does_not_wait_for_the_rest_of_its_frame() -> None:
    data = h2.frame(h2.DATA, h2.END_STREAM, 1, b"a" * 100)
    reader = h2.FrameReader()
    assert [bytes(frame[3]) for frame in reader.feed(data[:50])] == [b"a" * 41]


def test_a_small_frame_keeps_nothing_of_a_large_read() -> None:
    """Otherwise a client could make the proxy hold a hundred thousand times the counted bytes."""
    tracemalloc.start()
    try:
        kept = []
        for _ in range(20):
            read = h2.frame(h2.DATA, 0, 1, b"x") + h2.frame(h2.DATA, 0, 3, bytes(200_000))
            kept += [frame[3] for frame in h2.FrameReader().feed(read) if frame[2] == 1]
        del read
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()
    assert [bytes(piece) for piece in kept] == [b"x"] * 20


@given(st.binary(max_size=300), st.integers(1, 120), st.sampled_from([0, h2.END_STREAM]))
def test_a_body_is_cut_into_frames_that_the_peer_accepts(body: bytes, most: int, flags: int) -> None:
    data = b"".join(h2.data_frames(7, memoryview(body), flags, most))
    read = list(h2.FrameReader().feed(data))
    assert b"".join(frame[3] for frame in read) == body
    assert [frame[:3] for frame in read] == [(h2.DATA, 0, 7)] * (len(read) - 1) + [(h2.DATA, flags, 7)]
    assert len(read) == max(1, -(-len(body) // most))
    assert all(len(frame[3]) <= most for frame in read)


@given(st.lists(st.integers(0, 3 * SMALL_BYTES), max_size=12), st.integers(0, 10))
def test_pieces_make_the_body(sizes: list[int], count: int) -> None:
    parts = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    body = b"".join(parts)
    pieces = Pieces()
    for part in parts:
        pieces.add(memoryview(part))
    assert pieces.size == len(body)
    assert pieces.start(count) == body[:count]
    assert pieces.take() == body
    assert (pieces.size, pieces.take()) == (0, b"")


def test_many_small_pieces_take_little_more_memory_than_they_hold() -> None:
    pieces = Pieces()
    tracemalloc.start()
    try:
        for _ in range(200_000):
            pieces.add(b"x")
        assert tracemalloc.get_traced_memory()[0] < 400_000
    finally:
        tracemalloc.stop()
