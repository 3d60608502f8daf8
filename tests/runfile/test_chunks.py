from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.chunks import RAW_BEFORE_RETRY, WAITING_MESSAGES_MAX, Cells, Layout, Squeeze
from mpifarm.core.row import EXTENT, STDERR, STDOUT
from tests.rows import key_of

CELL = 256
KEYS = [(1, 7, 1), (1, 8, 1), (2, 7, 2)]

pieces = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from((STDOUT, STDERR)),
        st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"n" * 255, b"n" * 256, b"n" * 1200])),
    ),
    max_size=40,
)


class Node:
    """Launcher and leader with an arena between them; `chunks` is the file."""

    def __init__(self) -> None:
        self.cells = Cells(40, CELL, 4)
        self.layout = Layout(CELL)
        self.arena = [bytearray(CELL) for _ in range(40)]

    def write(self, key: tuple[int, int, int], stream: int, content: bytes) -> None:
        while content:
            self.cells.open()
            cell, offset = self.cells.cell, self.cells.filled
            piece, content = content[: CELL - offset], content[CELL - offset :]
            self.arena[cell][offset : offset + len(piece)] = piece
            self.cells.fill(len(piece))
            self.layout.add(key_of(*key), stream, len(piece), cell * CELL + offset)

    def take(self) -> tuple[list[tuple[int, ...]], bytes, int]:
        """Extents, the chunks one after another, and how far they are filled."""
        self.cells.close()
        extents, cells = self.layout.take()
        pool = b"".join(bytes(self.arena[cell]) for cell, _ in cells)
        self.cells.give_back(tuple(cell for cell, _ in cells))
        end = (len(cells) - 1) * CELL + cells[-1][1] if cells else 0
        assert all(filled == CELL for _, filled in cells[:-1])
        return list(EXTENT.iter_unpack(extents)), pool, end


@given(st.lists(pieces, min_size=1, max_size=5))
def test_extents_give_back_every_stream_in_order(messages: list[list[tuple[tuple[int, int, int], int, bytes]]]) -> None:
    node = Node()
    for message in messages:
        expected: dict[tuple[tuple[int, ...], int], bytes] = {}
        for key, stream, piece in message:
            if node.cells.low:
                break
            node.write(key, stream, piece)
            expected[key, stream] = expected.get((key, stream), b"") + piece
        extents, pool, filled = node.take()
        found, end = dict.fromkeys(expected, b""), 0
        for *key, stream, length, position in extents:
            assert position == end  # nothing is wasted between pieces
            end = position + length
            found[tuple(key), stream] += pool[position:end]
        assert found == expected and end == filled


def test_pieces_of_one_stream_in_a_row_are_one_extent() -> None:
    node = Node()
    for _ in range(100):
        node.write(KEYS[0], STDOUT, b"0123456789")
    assert node.take()[0] == [(*KEYS[0], STDOUT, 1000, 0)]


def test_cells_run_low_before_they_run_out_and_come_back() -> None:
    cells = Cells(8, CELL, 3)
    used = []
    while not cells.low:
        cells.open()
        used.append(cells.cell)
        cells.fill(CELL)
    assert len(used) == 5 and cells.full == 5 and not cells.ample
    for _ in range(3):  # the reserve is for those who cannot wait
        cells.open()
        used.append(cells.cell)
        cells.fill(CELL)
    assert sorted(used) == list(range(8))
    cells.give_back(tuple(used[:5]))
    assert not cells.low and cells.ample
    cells.open()
    assert cells.cell == used[4], "the last one freed is the warmest"


def test_a_closed_cell_gets_nothing_more() -> None:
    cells = Cells(8, CELL, 3)
    cells.open()
    first = cells.cell
    cells.fill(10)
    cells.close()
    cells.open()
    assert cells.cell != first and cells.filled == 0


def test_compression_rests_after_noise_and_comes_back() -> None:
    squeeze = Squeeze(CELL)
    assert squeeze.wants(CELL, 0) and not squeeze.keeps(CELL)
    assert [squeeze.wants(CELL, 0) for _ in range(RAW_BEFORE_RETRY + 1)] == [False] * RAW_BEFORE_RETRY + [True]
    assert squeeze.keeps(CELL // 2) and squeeze.wants(CELL, 0)


def test_compression_gives_way_when_it_holds_up_the_output() -> None:
    squeeze = Squeeze(CELL)
    assert squeeze.wants(CELL, WAITING_MESSAGES_MAX)
    assert not squeeze.wants(CELL, WAITING_MESSAGES_MAX + 1)
    assert squeeze.wants(CELL // 2, WAITING_MESSAGES_MAX + 1), "padding is not worth its disk space"
