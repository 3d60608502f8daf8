"""How messages become bytes: between ranks of one world, and between a rank and its launcher. Pure.

The few kinds that come with every task, or every few, are plain tuples in `marshal`, whose bytes begin with their
number: an eighth of the price of pickled objects. All others are pickled. What blocks share (needs, jobs) is pickled
once and remembered at both ends. Both formats hold only between processes that were started together from one
installation; `messages.VERSION` is compared at start-up.
"""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from mpifarm.core.job.policy import JobText
from mpifarm.core.model import Block, Kind, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.messages import Deal, Durable, LinkMessage, Message, Output, Start, Want, Written

_MARSHAL = 2  # without references, which cost more than they save here
_PICKLED = 0x80  # how a pickle begins; marshalled tuples do not
_REMEMBERED = 4096


def encode(message: Message | LinkMessage) -> bytes:
    pack = _PACK.get(type(message))
    if pack is None:
        return pickle.dumps(message, protocol=5)
    return marshal.dumps(pack(message), _MARSHAL)


def decode(data: bytes | bytearray | memoryview) -> Message | LinkMessage:
    """The message `encode` was given. Only for bytes from a process of this run."""
    if data[0] == _PICKLED:
        return cast("Message | LinkMessage", pickle.loads(data))
    number, *fields = marshal.loads(data)
    return cast("Message | LinkMessage", _MAKE[number](*fields))


@lru_cache(_REMEMBERED)
def _shared(value: Needs | JobText) -> bytes:
    return pickle.dumps(value, protocol=5)


@lru_cache(_REMEMBERED)
def _unshared(data: bytes) -> Any:
    return pickle.loads(data)


def _pack_blocks(number: int, jobs: Sequence[JobText], blocks: Sequence[Block]) -> tuple[object, ...]:
    # Tasks by columns: two calls in C however many there are.
    packed = [
        (
            *(b.lease, b.job, b.attempt, _shared(b.needs), b.lo, tuple(zip(*b.tasks))),
            *(b.fails, b.crashes, int(b.kind)),
        )
        for b in blocks
    ]
    return number, [_shared(job) for job in jobs], packed


def _make_blocks(
    kind: Callable[[tuple[JobText, ...], tuple[Block, ...]], Deal | Start],
) -> Callable[[list[bytes], list[Any]], Deal | Start]:
    def make(jobs: list[bytes], packed: list[Any]) -> Deal | Start:
        blocks = [
            Block(
                lease, job, attempt, _unshared(needs), lo, list(map(TaskText._make, zip(*columns))), fails, crashes,
                Kind(number),
            )
            for lease, job, attempt, needs, lo, columns, fails, crashes, number in packed
        ]  # fmt: skip
        return kind(tuple(map(_unshared, jobs)), tuple(blocks))

    return make


_PACK: dict[type, Callable[[Any], Any]] = {
    Want: lambda m: (0, m.rank, m.cpus, m.received),
    Deal: lambda m: _pack_blocks(1, m.jobs, m.blocks),
    Start: lambda m: _pack_blocks(2, m.jobs, m.blocks),
    Output: lambda m: (3, m.rank, m.rows, m.extents, m.chunks, m.tails, m.cells),
    Written: lambda m: (4, m.extents),
    Durable: lambda m: (5, m.rank, m.rows, m.first_row, m.tails),
}
_MAKE: tuple[Callable[..., Any], ...] = (
    Want, _make_blocks(Deal), _make_blocks(Start), Output, Written, Durable
)  # fmt: skip
