"""Where output lies between a task's pipe and the run file: cells of a node's arena become chunks of the file.

The file's byte pool is a row of chunks of one size; a cell of the arena (`mpifarm.launch.arena`) has that size. The
launcher fills cells with the output of all its tasks, in the order in which it comes; the leader notes which piece lies
where (an extent, see `mpifarm.core.row`); a thread beside it deflates whole cells; the one writer of the file appends
them and never looks inside. A cell is free again when it is in the file, and a launcher that runs low of cells stops
reading: so there is one credit for everything between pipe and file. Pure: decides only.
"""

from __future__ import annotations

from mpifarm.core.row import EXTENT

WORTHWHILE = 0.9
"""A deflated chunk is kept when it is smaller than this share of the raw one."""

RAW_BEFORE_RETRY = 16
"""After a chunk that did not shrink, so many stay raw untried."""

WAITING_MESSAGES_MAX = 1
"""With more messages waiting, deflating is what holds up the output: chunks stay raw until it has caught up."""


class Cells:
    """The launcher's side: which cell is being filled, which are free."""

    def __init__(self, count: int, cell_bytes: int, reserve: int) -> None:
        """`reserve`: so many cells are kept for the last output of tasks that run already."""
        assert 0 <= reserve < count
        self._free = list(range(count - 1, -1, -1))  # the last one freed is used next: few pages are ever touched
        self._cell_bytes = cell_bytes
        self._reserve = reserve
        self._high = reserve + (count - reserve) // 4
        self.cell = -1
        """The one being filled; -1: none."""
        self.filled = 0
        self.full = 0
        """Cells filled up since the last `close`."""

    @property
    def low(self) -> bool:
        """Only the reserve is left: read nothing that can wait."""
        return len(self._free) <= self._reserve

    @property
    def ample(self) -> bool:
        """After `low`: it is worth to go on."""
        return len(self._free) > self._high

    def open(self) -> None:
        """See to it that a cell with room is being filled."""
        if self.cell < 0:
            self.cell, self.filled = self._free.pop(), 0

    def fill(self, size: int) -> None:
        """`size` more bytes are in the cell."""
        self.filled += size
        if self.filled == self._cell_bytes:
            self.cell, self.full = -1, self.full + 1

    def close(self) -> None:
        """Nothing will be added to cells used so far."""
        self.cell, self.full = -1, 0

    def give_back(self, cells: tuple[int, ...]) -> None:
        """These are in the file."""
        self._free += cells


class Layout:
    """The leader's side: cells and extents of its next message. `take` empties it."""

    def __init__(self, cell_bytes: int) -> None:
        self._cell_bytes = cell_bytes
        self._clear()

    def _clear(self) -> None:
        self.cells: list[list[int]] = []
        """Number and bytes filled of each, in order."""
        self._extents: list[list[int]] = []
        self._latest: tuple[tuple[int, ...], int] | None = None

    @property
    def extent_count(self) -> int:
        """How many extents the next `take` will give: an attempt's `extent_lo` and `extent_hi` in the message."""
        return len(self._extents)

    def add(self, key: tuple[int, ...], stream: int, length: int, position: int) -> None:
        """`length` bytes of the attempt `key` on `stream` are at `position` of the arena, within one cell.

        Pieces must come in the order in which they were filled in.
        """
        cells = self.cells
        cell, offset = divmod(position, self._cell_bytes)
        if not cells or cells[-1][0] != cell:
            cells.append([cell, 0])
        cells[-1][1] = offset + length
        if self._latest == (key, stream):
            self._extents[-1][4] += length  # cells of a message lie side by side in the file: still one extent
        else:
            self._extents.append([*key, stream, length, (len(cells) - 1) * self._cell_bytes + offset])
            self._latest = key, stream

    def take(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """Packed extents, and (cell, bytes filled) in order."""
        extents = b"".join(EXTENT.pack(*extent) for extent in self._extents)
        cells = tuple((cell, filled) for cell, filled in self.cells)
        self._clear()
        return extents, cells


class Squeeze:
    """Which chunks to compress. One for each thread that does it, since it learns from what came before."""

    def __init__(self, cell_bytes: int) -> None:
        self._cell_bytes = cell_bytes
        self._still_raw = 0

    def wants(self, filled: int, waiting: int) -> bool:
        """Whether to try it on a cell with `filled` bytes in it, while `waiting` messages wait behind this one."""
        if filled <= self._cell_bytes // 2:
            return True  # its padding alone is worth it, and costs next to nothing
        if waiting > WAITING_MESSAGES_MAX:
            return False
        if self._still_raw:
            self._still_raw -= 1
            return False
        return True

    def keeps(self, size: int) -> bool:
        """Whether the compressed chunk of `size` bytes is better than the raw one."""
        if size < WORTHWHILE * self._cell_bytes:
            return True
        self._still_raw = RAW_BEFORE_RETRY
        return False
