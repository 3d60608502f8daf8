from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.job.commandline import find_flaw
from mpifarm.core.needs import Needs
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.taskfile import COMMAND_BYTES_MAX, RUN_TASKS_MAX, read_tasks

DEFAULTS = Needs(cpus=2, time_limit_s=60.0)
MEGABYTE = 1 << 20


def read(content: bytes) -> list[tuple[Needs, bytes]]:
    return [
        (part.needs, command)
        for part in read_tasks(io.BytesIO(content), "tasks.txt", DEFAULTS)
        for command in part.tasks
    ]


def commands(content: bytes) -> list[bytes]:
    return [command for _, command in read(content)]


def refusal(content: bytes) -> TaskFileError:
    with pytest.raises(TaskFileError) as caught:
        read(content)
    return caught.value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\r\r\nb\rc\n", [b"a\r", b"b\rc"]),
        (b"\n\r\n \t\na\n\n\n", [b"a"]),
        (b"# one\n  # two\n\t#three\na # four\n#", [b"a # four"]),
        (b"  a  \n\tb\t\n", [b"  a  ", b"\tb\t"]),
        (b"\xef\xbb\xbfa\nb\n", [b"a", b"b"]),
        (b"\xef\xbb\xbf# one\na\n", [b"a"]),
        (b"a\n\xef\xbb\xbfb\n", [b"a", b"\xef\xbb\xbfb"]),
        (b"\xff\xfe\x80\n\x01\x7f\n\x0b\n", [b"\xff\xfe\x80", b"\x01\x7f", b"\x0b"]),
        (b'prog \'a\' "b" \\\' $(echo "c")\n', [b'prog \'a\' "b" \\\' $(echo "c")']),
        (b"a\n# MPIFARM --cpus 4\n#mpirun a\n#HQX\n##SBATCH -n 1\n#$HOME\nb\n", [b"a", b"b"]),
    ],
)
def test_lines_become_commands(content: bytes, expected: list[bytes]) -> None:
    assert read(content) == [(DEFAULTS, command) for command in expected]


def test_directives_apply_to_the_lines_after_them() -> None:
    content = b"""a
#MPIFARM --cpus 4
b
c
 #MPIFARM --time-limit=1h30m
d
#MPIFARM\t--time-limit 0s   --cpus=1
e
#MPIFARM --cpus 8
"""
    assert read(content) == [
        (DEFAULTS, b"a"),
        (Needs(4, time_limit_s=60.0), b"b"),
        (Needs(4, time_limit_s=60.0), b"c"),
        (Needs(4, time_limit_s=5400.0), b"d"),
        (Needs(1, time_limit_s=0.0), b"e"),
    ]


def test_a_directive_holds_beyond_the_buffer_it_stands_in() -> None:
    filler = b"plain command\n" * 20_000
    shapes = {needs for needs, _ in read(b"#MPIFARM --cpus 4\n" + filler)}
    assert shapes == {Needs(4, time_limit_s=60.0)}
    assert [needs.cpus for needs, _ in read(filler + b"#MPIFARM --cpus 4\n" + filler)] == [2] * 20_000 + [4] * 20_000


@pytest.mark.parametrize(
    ("directive", "column", "reason"),
    [
        (b"#MPIFARM", 8, "names no option"),
        (b"#MPIFARM  ", 8, "names no option"),
        (b"#MPIFARM --gpu 1", 9, "unknown option '--gpu' (there are --cpus, --mem, --gpus, "),
        (b"#MPIFARM --mem 4", 15, "'4' has no unit: write 4M or 4G"),
        (b"#MPIFARM --mem 4X", 15, "is not a size: write 4G or 500M"),
        (b"#MPIFARM --mem 4 bytes", 15, "has no unit"),
        (b"#MPIFARM --gpus 1.5", 16, "neither whole nor a share of one GPU"),
        (b"#MPIFARM --gpus -1", 16, "a number of GPUs such as 1 or 2, or a share"),
        (b"#MPIFARM --resource licence", 20, "is not NAME=AMOUNT"),
        (b"#MPIFARM --resource node=1", 20, "said by --node-packing-count"),
        (b"#MPIFARM --resource 1x=1", 20, "cannot be the name of a resource"),
        (b"#MPIFARM --resource x=1.0001", 20, "an amount such as 1 or 0.5"),
        (b"#MPIFARM --node-packing-count 1001", 30, "not a whole number from 0 to 1000"),
        (b"#MPIFARM --nodes 2", 17, "a task is one process on one node"),
        (b"#MPIFARM --gres gpu:a:b:c", 16, "is not such as gpu:2"),
        (b"#MPIFARM --cpus =", 9, "--cpus has no value"),
        (b"#MPIFARM cpus 1", 9, "unknown option 'cpus'"),
        (b"#MPIFARM --cpus", 9, "--cpus has no value"),
        (b"#MPIFARM --cpus=", 9, "--cpus has no value"),
        (b"#MPIFARM --cpus 0", 16, "--cpus: '0' is not a whole number from 1 to 65535"),
        (b"#MPIFARM --cpus four", 16, "--cpus: 'four'"),
        (b"#MPIFARM --cpus 4 --time-limit 10", 31, "has no unit: write 10s or 10m"),
        (b"#MPIFARM --cpus 4 # four", 18, "unknown option '#'"),
        (b"#MPIFARM --cpus 4 5", 18, "unknown option '5'"),
        (b"#MPIFARM --retries 3", 9, "--retries is for all tasks of a submit, not for some lines"),
        (b"#MPIFARM --cpus 2 --max-fails=1", 18, "mpifarm submit --max-fails ..."),
        (b"#MPIFARM --after scan", 9, "--after is for all tasks of a submit"),
        (b"#MPIFARM barrier", 9, "--time-request and --category, and BARRIER [CHECK]"),
        (b"#MPIFARM BARRIER check", 17, "after BARRIER comes CHECK or nothing"),
        (b"#MPIFARM BARRIER --cpus 4", 17, "options stand in a line of their own"),
        (b"#MPIFARM BARRIER CHECK 4", 23, "after BARRIER CHECK comes nothing"),
        (b"#MPIFARM --cpus 4 BARRIER", 18, "unknown option 'BARRIER'"),
    ],
)
def test_bad_directives(directive: bytes, column: int, reason: str) -> None:
    error = refusal(b"a\n" + directive + b"\nb\n")
    assert (error.line, error.column) == (2, column)
    assert reason in str(error)


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"prog 'a b", 5, "single quote"),
        (b'prog "a b', 5, "double quote"),
        (b"prog a \\", 7, "cannot continue"),
        (b"prog a\0b", 6, "NUL"),
        ("prög 'ä".encode(), 5, "single quote"),
        (b"\xff\xff 'a", 3, "single quote"),
    ],
)
@pytest.mark.parametrize("before", [b"", b"a\n", b"# one\r\n\r\na\r\n", b"plain command\n" * 20_000], ids=len)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nb\n"])
def test_bad_lines_are_named(line: bytes, column: int, reason: str, before: bytes, end: bytes) -> None:
    error = refusal(before + line + end)
    assert (error.line, error.column) == (before.count(b"\n") + 1, column)
    assert reason in str(error)
    assert str(error).startswith(f"tasks.txt:{error.line}:{column + 1}: ")


def test_the_spot_is_shown() -> None:
    _, excerpt, caret = str(refusal(b"prog 'a b\n")).split("\n")
    assert excerpt.strip() == "prog 'a b"
    assert excerpt[caret.index("^")] == "'"


def test_runs_before_a_bad_line_are_yielded_first() -> None:
    reading = read_tasks(io.BytesIO(b"a\n" * 200_000 + b"'"), "x", DEFAULTS)
    part = next(reading)
    assert part.needs == DEFAULTS
    assert len(part.tasks) == RUN_TASKS_MAX


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"# one\n\n", b"#MPIFARM --cpus 4\n", b" \r\n"])
def test_a_file_without_tasks_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match=r"tasks\.txt: there is no task in it"):
        read(content)


@pytest.mark.parametrize("size", [255 << 10, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, MEGABYTE - 1, MEGABYTE])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_long_lines(size: int, end: bytes) -> None:
    line = b"x" * size
    assert commands(line + end) == [line]
    assert commands(b"a\n" + line + b"\n" + line + end) == [b"a", line, line]


@pytest.mark.parametrize("size", [MEGABYTE + 1, MEGABYTE + 2, 3 * MEGABYTE])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nb\n"])
@pytest.mark.parametrize("before", [b"", b"a\n", b"plain command\n" * 20_000], ids=len)
def test_lines_that_are_too_long(size: int, end: bytes, before: bytes) -> None:
    assert size > COMMAND_BYTES_MAX
    error = refusal(before + b"x" * size + end)
    assert error.line == before.count(b"\n") + 1
    assert "longer than 1048576 bytes" in str(error)


def test_a_file_without_line_ends_is_not_read_to_its_end() -> None:
    stream = io.BytesIO(b"x" * (20 * MEGABYTE))
    with pytest.raises(TaskFileError, match="longer than"):
        list(read_tasks(stream, "x", DEFAULTS))
    assert stream.tell() < 2 * MEGABYTE


def _peak_bytes(repeats: int, path: Path) -> int:
    """The most memory that reading a file of so many times 40 kB takes."""
    plain, quoted = b"plain".ljust(99, b"x") + b"\n", b"prog 'a'".ljust(99, b"x") + b"\n"
    path.write_bytes(plain * 300 * repeats + quoted * 100 * repeats)
    count = 0
    with path.open("rb") as stream:
        tracemalloc.start()
        for part in read_tasks(stream, "x", DEFAULTS):
            assert 0 < len(part.tasks) <= RUN_TASKS_MAX
            count += len(part.tasks)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 400 * repeats
    return peak


def test_runs_are_short_and_memory_is_flat(tmp_path: Path) -> None:
    """A quarter of a MiB is looked at at once, so what goes beyond it costs nothing."""
    assert _peak_bytes(60, tmp_path / "long.txt") < 1.2 * _peak_bytes(20, tmp_path / "short.txt")


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"", b" ", b"# c", b"#MPIFARM --cpus 3", b"\r", b"'a'", b"a\\\\", b"a ", b"\xff"]),
            st.binary(max_size=6).map(lambda text: text.translate(None, b"\n\0&|<>(){}[];!`fuwscdite")),  # no syntax
        ),
        max_size=12,
    ),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)  # fmt: skip
def test_reading_agrees_with_a_line_by_line_reading(lines: list[bytes], end: bytes, ended: bool) -> None:
    """The fast path and the careful path against the grammar in its plainest form."""
    content = end.join([b"first", *lines]) + (end if ended else b"")
    needs, expected = DEFAULTS, []
    *whole, last = content.split(b"\n")
    for line in [*(line.removesuffix(b"\r") for line in whole), last]:
        text = line.lstrip(b" \t")
        if text.startswith(b"#MPIFARM --cpus 3"):
            needs = needs._replace(cpus=3)
        elif text.startswith((b"#MPIFARM", b"[#")):
            return
        elif text and not text.startswith(b"#"):
            if find_flaw(line):
                refusal(content)
                return
            expected.append((needs, line))
    assert read(content) == expected
