"""What lines wait for: the notation, barriers, and the search for rings, against the plainest reading of each."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.model import Parent
from mpifarm.core.needs import Needs
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.cycles import Waiting
from mpifarm.intake.parents import LINES_KEPT, TASKS_MAX, merged
from mpifarm.intake.taskfile import read_tasks


def read(content: bytes) -> list[tuple[bytes, tuple[Parent, ...]]]:
    parts = read_tasks(io.BytesIO(content), "tasks.txt", Needs())
    return [(command, part.parents) for part in parts for command in part.tasks]


def needs(content: bytes) -> list[tuple[Parent, ...]]:
    return [parents for _, parents in read(content)]


def refusal(content: bytes) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(content)
    return caught.value


BEFORE = b"a\n# no task\n\na\r\na\na\n"
"""Four tasks in six lines."""


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("[# 1 #]", [Parent(1, 2)]),
        ("[#1#]", [Parent(1, 2)]),
        ("[# 1,3-4 #]", [Parent(1, 2), Parent(3, 5)]),
        ("[# 3-4 ,1,\t4 #]", [Parent(1, 2), Parent(3, 5)]),
        ("[# 1, 2 - 3 #]", [Parent(1, 4)]),
        ("[# -1 #]", [Parent(4, 5)]),
        ("[# -3--1 #]", [Parent(2, 5)]),
        ("[# 1--1 #]", [Parent(1, 5)]),
        ("[# -4-3 #]", [Parent(1, 4)]),
        ("[# +1 #]", [Parent(6, 7)]),
        ("[# +1-+2 #]", [Parent(6, 8)]),
        ("[# 7 #]", [Parent(7, 8)]),
        ("[# any 1-2 #]", [Parent(1, 3, True)]),
        ("[# any 1-2,4 #]\t[# 2-3 #]", [Parent(2, 4), Parent(1, 3, True), Parent(4, 5, True)]),
        ("[# #]", []),
        ("[##]", []),
        ("[# any #]", []),
    ],
)
def test_the_notation(annotation: str, expected: list[Parent]) -> None:
    content = BEFORE + f" {annotation}  merge '[# 1 #]' \nlast\nlast\n".encode()
    assert read(content)[4] == (b"merge '[# 1 #]' ", tuple(expected))


@pytest.mark.parametrize(
    ("line", "at", "reason"),
    [
        ("[# 1 merge", "[#", "not closed"),
        ("[# 1 #", "[#", "not closed"),
        ("[#] merge", "[#", "not closed"),
        ("[# 1 #] [# 2 merge", "[# 2", "not closed"),
        ("[# 1 #]", "", "no command after"),
        ("[# 1 #]  # merge", "# merge", "no command after"),
        ("[# 0 #] merge", "0", "tasks count from 1"),
        ("[# -0 #] merge", "-0", "tasks count from 1"),
        ("[# 1,5 #] merge", "5", "this is task 5, and it would wait for itself (tasks are counted, not lines)"),
        ("[# 2-7 #] merge", "2-7", "it would wait for tasks 2 to 7, itself among them"),
        ("[# -5 #] merge", "-5", "this is task 5, and there are 4 before it, not 5"),
        ("[# 4-2 #] merge", "4-2", "ends before it begins"),
        ("[# -3-1 #] merge", "-3-1", "ends before it begins (-3--1 are the three before)"),
        ("[# 1, #] merge", "#] merge", "is not a number or a range of tasks"),
        ("[# ,1 #] merge", ",1", "is not a number or a range of tasks"),
        ("[# 1 2 #] merge", "1 2", "with commas between"),
        ("[# 2->6 #] merge", "2->6", "is not a number or a range"),
        ("[# mistake #] merge", "mistake", "'mistake' is not a number"),
        ("[# \u0661 #] merge", "\u0661", "is not a number"),
        ("ä [# 1 #] merge", None, ""),
        ("[# 99999999999 #] merge", "99999999999", "at most"),
        (f"[# {'9' * 5000} #] merge", "9", "at most"),
        ("[# 1-99999999999 #] merge", "1-9", "at most"),
        (f"[# +{TASKS_MAX} #] merge", "+", "at most"),
        ("[# 1 #] prog 'open", "'", "single quote"),
        ("[# 1 #] prog a\\", "\\", "continue"),
        ("[# 1 #] prog\0", "\0", "NUL"),
        ("[# 1\0 #] prog", "1\0", "is not a number"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n[# 1 #] last\n", ""])
def test_what_is_refused(line: str, at: str | None, reason: str, end: str) -> None:
    content = BEFORE + f"{line}{end}".encode()
    if at is None:
        assert len(read(content)) >= 5
        return
    error = refusal(content)
    assert isinstance(error, TaskFileError)
    assert (error.line, error.column) == (7, line.index(at) if at else len(line))
    assert reason in str(error)


def test_bytes_that_are_no_text() -> None:
    assert "is not a number" in str(refusal(b"a\n[# \xff\xfe #] merge\n"))
    assert read(b"\xef\xbb\xbfa\n[# 1 #] \xff\n") == [(b"a", ()), (b"\xff", (Parent(1, 2),))]


def test_who_is_not_there_is_named_at_the_end() -> None:
    error = refusal(b"a\n# c\n\n b\n  [# 1, 7-9 #] merge\n[# 8 #] b\nb\n")
    assert str(error) == (
        "tasks.txt:5:9: there is no task 9 to wait for: tasks.txt has 5 tasks (tasks are counted, not lines)\n"
        "      [# 1, 7-9 #] merge\n            ^"
    )


@pytest.mark.parametrize(
    ("content", "ring", "line"),
    [
        (b"[# 2 #] a\n[# 1 #] b\n", "1 (line 1) -> 2 (line 2) -> 1", 1),
        (b"a\n[# +1 #] b\n# c\n[# 2 #] b\n", "2 (line 2) -> 3 (line 4) -> 2", 2),
        (b"[# 4 #] a\n#MPIFARM BARRIER\nb\nb\nb\n", "1 (line 1) -> 4 (line 5) -> 1", 1),
        (b"[# 3 #] a\nb\n[# any 4 #] c\n[# 1-2 #] d\n", "1 (line 1) -> 3 (line 3) -> 4 (line 4) -> 1", 1),
        (b"[# 9 #] a\n" + b"[# -1 #] b\n" * 8, "9 (line 9) -> 8 (line 8) -> 7 (line 7)", 1),
    ],
)
def test_rings_are_named(content: bytes, ring: str, line: int) -> None:
    error = refusal(content)
    assert ring in str(error)
    assert isinstance(error, TaskFileError)
    assert error.line == line


def test_a_ring_of_many_tasks_in_a_file_of_forward_references() -> None:
    """Most lines are too many to be kept for a caret; the ring and its line are named all the same."""
    count = LINES_KEPT + 50
    error = refusal(b"[# +1 #] a\n" * count + b"[# %d #] b\n" % (count - 10))
    assert "... 6 more" in str(error)
    assert re.match(rf"tasks\.txt:{count - 10}: tasks wait for each other", str(error))


# --- barriers ----------------------------------------------------------------------------------------------------


def test_barriers() -> None:
    content = b"""#MPIFARM BARRIER
a
a
#MPIFARM BARRIER
b
 #MPIFARM\tBARRIER CHECK
[# 1 #] c
#MPIFARM --cpus 2
c
#MPIFARM BARRIER
d
#MPIFARM BARRIER
#MPIFARM BARRIER CHECK
#MPIFARM BARRIER
e
"""
    ended, both = Parent(1, 3, True), Parent(3, 4)
    assert needs(content) == [
        (),
        (),
        (ended,),
        (Parent(1, 2), both),
        (both,),
        (both, Parent(4, 6, True)),
        (Parent(6, 7),),
    ]


def test_a_barrier_holds_beyond_the_buffer_it_stands_in() -> None:
    filler = b"plain command\n" * 50_000
    found = needs(filler + b"#MPIFARM BARRIER\n" + filler + b"'quoted'\n" + filler)
    assert found == [()] * 50_000 + [(Parent(1, 50_001, True),)] * 100_001


Line = tuple[str, bool | str]


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.just("task"), st.booleans()), max_size=14), st.data())
def test_barriers_mean_what_disbatch_means(lines: list[str | bool], data: st.DataObject) -> None:
    """Played through: tasks begin whenever they may and end at will; what began is what disBatch would have begun."""
    text = [{"task": b"t", False: b"#MPIFARM BARRIER", True: b"#MPIFARM BARRIER CHECK"}[line] for line in lines]
    tasks = lines.count("task")
    if not tasks:
        return
    found = needs(b"\n".join(text))
    good = data.draw(st.lists(st.booleans(), min_size=tasks, max_size=tasks))
    began: list[bool] = []
    for parents in found:  # none waits for later ones, so one pass settles all
        began.append(
            all(parent.any or (began[no - 1] and good[no - 1]) for parent in parents for no in range(*parent[:2]))
        )
    expected, stopped, group, last = [], False, True, True
    task = 0
    for line in lines:
        if line == "task":
            if last is not True:
                group, last = True, True
            expected.append(not stopped)
            group = group and not stopped and good[task]
            task += 1
        else:
            last = False
            stopped = stopped or (line is True and not group)
    assert began == expected


# --- against the plainest reading --------------------------------------------------------------------------------

ENDS = st.sampled_from(["1", "2", "3", "7", "-1", "-2", "+1", "+2", "0", "-9"])
ELEMENTS = st.one_of(ENDS, st.tuples(ENDS, ENDS).map(lambda two: f"{two[0]}-{two[1]}"))
ANNOTATIONS = st.tuples(st.booleans(), st.lists(ELEMENTS, min_size=1, max_size=3))


def plainly(lines: list[tuple[bool, list[str]] | None]) -> list[dict[int, set[bool]]] | None:
    """Who waits for whom, and in which way; None when it cannot be."""
    found: list[dict[int, set[bool]]] = []
    for task, line in enumerate(lines, 1):
        wanted: dict[int, set[bool]] = {}
        for element in line[1] if line else []:
            first, last = re.fullmatch(r"([+-]?\d+)(?:-([+-]?\d+))?", element).groups()  # type: ignore[union-attr]
            numbers = [int(end) if end[0] not in "+-" else task + int(end) for end in (first, last or first)]
            if any(int(end) == 0 for end in (first, last or first)) or numbers[0] > numbers[1] or numbers[0] < 1:
                return None
            for number in range(numbers[0], numbers[1] + 1):
                if number == task or number > len(lines):
                    return None
                wanted.setdefault(number, set()).add(line[0])  # type: ignore[index]
        found.append(wanted)
    begun: set[int] = set()
    while more := {no for no, wanted in enumerate(found, 1) if no not in begun and begun.issuperset(wanted)}:
        begun |= more
    return found if len(begun) == len(found) else None


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(st.none(), ANNOTATIONS), min_size=1, max_size=8))
def test_needs_agree_with_a_plain_reading(lines: list[tuple[bool, list[str]] | None]) -> None:
    text = [f"[#{'any ' if line[0] else ''}{' , '.join(line[1])}#] x" if line else "x" for line in lines]
    content, expected = "\n".join(text).encode(), plainly(lines)
    if expected is None:
        assert str(refusal(content)).startswith("tasks.txt:")
        return
    found: list[dict[int, set[bool]]] = []
    for parents in needs(content):
        wanted: dict[int, set[bool]] = {}
        for parent in parents:
            for number in range(parent.lo, parent.hi):
                assert parent.any not in wanted.setdefault(number, set()), "named twice"
                wanted[number].add(parent.any)
        found.append(wanted)
    assert found == expected


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(st.data())
def test_the_search_for_rings_agrees_with_a_naive_one(data: st.DataObject) -> None:
    """Rows of one to three tasks, that wait for any ranges."""
    waiting, wanted = Waiting(), dict[int, set[int]]()
    task = 1
    for _ in range(data.draw(st.integers(1, 12))):
        task += data.draw(st.integers(0, 2))
        end = task + data.draw(st.integers(1, 3))
        ranges = data.draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 4)), min_size=1, max_size=2))
        waiting.add(task, end, 10 * task, [Parent(lo, lo + width) for lo, width in ranges])
        for number in range(task, end):
            wanted[number] = {parent for lo, width in ranges for parent in range(lo, lo + width)}
        task = end
    left = dict(wanted)
    while done := [number for number, parents in left.items() if not parents & left.keys()]:
        for number in done:
            del left[number]
    ring = waiting.cycle()
    assert bool(ring) == bool(left)
    for number, following in zip(ring, [*ring[1:], *ring[:1]]):
        assert following in wanted[number]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.booleans()), max_size=6))
def test_merging_names_each_task_once(found: list[tuple[int, int, bool]]) -> None:
    parents = [Parent(lo, lo + width, any_end) for lo, width, any_end in found]

    def named(parents: list[Parent] | tuple[Parent, ...]) -> list[tuple[int, bool]]:
        return [(number, parent.any) for parent in parents for number in range(parent.lo, parent.hi)]

    assert sorted(named(merged(parents))) == sorted(set(named(parents)))
    assert len(named(merged(parents))) == len(set(named(parents)))


@pytest.mark.parametrize(
    "line",
    [lambda _: b"[# -1 #] b\n", lambda task: b"[# 1-%d #] b\n" % (task - 1)],
    ids=["chain", "all before"],
)
def test_the_search_touches_each_row_a_bounded_number_of_times(
    line: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed; with a forward reference, so that there is a search at all."""
    steps = 0
    step = Waiting._next

    def counted(self: Waiting, *arguments: object) -> int:
        nonlocal steps
        steps += 1
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Waiting, "_next", counted)

    def content(tasks: int) -> Iterator[bytes]:
        yield b"a\n"
        yield from (line(task) for task in range(2, tasks - 1))
        yield b"[# +1 #] b\nb\n"

    for tasks in (1000, 4000):
        steps = 0
        assert len(read(b"".join(content(tasks)))) == tasks
        assert 0 < steps < 4 * tasks
