from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core import chunks as chunks_module
from mpifarm.core.chunks import RAW_BEFORE_RETRY, ChunkPacker, Packed
from mpifarm.core.row import EXTENT, STDERR, STDOUT

CHUNK = 256
NOISE = random.Random(1).randbytes(1 << 16)
KEYS = [(1, 7, 1), (1, 8, 1), (2, 7, 2)]


def pool(packed: Packed, chunk_bytes: int) -> bytes:
    whole = [zlib.decompress(content) if deflated else content for deflated, content in packed.chunks]
    assert all(len(chunk) == chunk_bytes for chunk in whole)
    return b"".join(whole)


pieces = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from((STDOUT, STDERR)),
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([NOISE[:255], NOISE[:256], NOISE[:257], b"\0" * 512, NOISE[: 5 * CHUNK + 3]]),
        ),
    ),
    max_size=40,
)


@given(st.lists(pieces, min_size=1, max_size=3))
def test_extents_give_back_every_stream_in_order(messages: list[list[tuple[tuple[int, int, int], int, bytes]]]) -> None:
    packer = ChunkPacker(CHUNK)
    for message in messages:
        expected: dict[tuple[tuple[int, int, int], int], bytes] = {}
        for key, stream, piece in message:
            packer.add(key, stream, piece)
            expected[key, stream] = expected.get((key, stream), b"") + piece
        count = packer.extent_count
        assert packer.size == sum(map(len, expected.values()))
        packed = packer.take()
        assert packed.size == sum(map(len, expected.values())) and packer.size == packer.extent_count == 0
        content, found = pool(packed, CHUNK), dict.fromkeys(expected, b"")
        extents = list(EXTENT.iter_unpack(packed.extents))
        assert len(extents) == count
        end = 0
        for *key, stream, length, position in extents:
            assert position == end  # nothing is wasted between pieces
            end = position + length
            found[tuple(key), stream] += content[position:end]
        assert found == expected
        assert content[end:].strip(b"\0") == b"" and len(content) - end < CHUNK


def test_nothing_added_gives_nothing() -> None:
    packer = ChunkPacker(CHUNK)
    packer.add(KEYS[0], STDOUT, b"")
    assert packer.take() == (b"", (), 0)


def test_a_whole_aligned_piece_of_noise_is_not_copied() -> None:
    packer = ChunkPacker(CHUNK)
    piece = NOISE[:CHUNK]
    packer.add(KEYS[0], STDOUT, piece)
    ((deflated, content),) = packer.take().chunks
    assert not deflated and content is piece


def test_pieces_of_one_stream_in_a_row_are_one_extent() -> None:
    packer = ChunkPacker(CHUNK)
    for _ in range(100):
        packer.add(KEYS[0], STDOUT, b"0123456789")
    assert EXTENT.unpack(packer.take().extents) == (*KEYS[0], STDOUT, 1000, 0)


def test_deflate_rests_after_noise_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def counting(content: bytes, level: int) -> bytes:
        tried.append(len(content))
        return real(content, level)

    real = zlib.compress
    monkeypatch.setattr(chunks_module.zlib, "compress", counting)
    packer = ChunkPacker(CHUNK)
    packer.add(KEYS[0], STDOUT, NOISE[: CHUNK * (RAW_BEFORE_RETRY + 1)])
    assert len(tried) == 1
    packer.add(KEYS[0], STDOUT, bytes(CHUNK * 2))
    assert len(tried) == 3
    assert [deflated for deflated, _ in packer.take().chunks] == [False] * (RAW_BEFORE_RETRY + 1) + [True, True]


def test_a_short_message_of_noise_is_not_blown_up_by_its_padding() -> None:
    packer = ChunkPacker(1 << 16)
    packer.add(KEYS[0], STDOUT, NOISE[:1000])
    ((deflated, content),) = packer.take().chunks
    assert deflated and len(content) < 1600
