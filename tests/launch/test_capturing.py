"""Files that attempts leave, taken where they were made, whatever else a task may have put there."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from mpifarm.core.job.policy import Policy
from mpifarm.core.left_behind import Contents, parse_contents
from mpifarm.core.model import FailureClass, State, TaskText
from mpifarm.core.row import CAPTURED, CONTENTS, HAS_CONTENTS, NOT_ALL_TAKEN
from mpifarm.launch import captured_files
from tests.fix_farm import wait_for
from tests.launch.node import OneNode, Whole

pytestmark = pytest.mark.slow


def taken(node: OneNode, task: int) -> tuple[dict[str, bytes], Contents]:
    """The files of an ended task, and what is said of them."""
    text = node.output(task, CONTENTS)
    contents = parse_contents(text) if text else Contents()
    stream = node.output(task, CAPTURED)
    assert sum(entry.length for entry in contents.entries) == len(stream)
    return {e.name: stream[e.offset : e.offset + e.length] for e in contents.entries}, contents


def capture(node: OneNode, command: str | bytes, *patterns: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """What is taken, and the notes, after one task."""
    task = node.start(command, policy=Policy(capture=patterns))
    node.wait([task], 60)
    files, contents = taken(node, task)
    check_flags(node.ended[task], contents)
    return files, contents.notes


def check_flags(ended: Whole, contents: Contents) -> None:
    flags = (HAS_CONTENTS if contents != Contents() else 0) | (NOT_ALL_TAKEN if contents.notes else 0)
    assert ended.flags == flags


def test_files_by_name_and_by_pattern(node: OneNode) -> None:
    Path(os.fsdecode(node.cwd), "out").mkdir()
    made = (
        "echo one > out/a.npy; echo two > out/b.npy; echo no > out/.c.npy; : > empty; mkdir -p d/e; echo deep > d/e/f"
    )
    files, notes = capture(node, made + "; echo hi", "out/*.npy", "empty", "**/f", "./out//a.npy")
    assert files == {"out/a.npy": b"one\n", "out/b.npy": b"two\n", "empty": b"", "d/e/f": b"deep\n"}
    assert notes == ()


def test_each_task_of_a_directory_takes_its_own(node: OneNode) -> None:
    first = node.start_tasks(
        [
            TaskText(b"echo %d > out-%04d.txt; echo %s > out-x%s" % (n, n, e, e))
            for n, e in enumerate((b"[a]", b"*"), 1)
        ],
        policy=Policy(capture=("out-{task:04}.txt", "out-x{}")),
    )
    node.wait([first, first + 1])
    # The entry of a line is the line itself: no file is called so.
    assert list(taken(node, first)[0]) == ["out-0001.txt"]
    tasks = [TaskText(b"echo '%s' > 'y%s'" % (e, e), e) for e in (b"[a]", b"*", b"t/../../z", b"s/t")]
    Path(os.fsdecode(node.cwd), "ys").mkdir()
    third = node.start_tasks(tasks, policy=Policy(capture=("y{}",)))
    node.wait(range(third, third + 4))
    found = [taken(node, task) for task in range(third, third + 4)]
    assert [files for files, _ in found] == [{"y[a]": b"[a]\n"}, {"y*": b"*\n"}, {}, {"ys/t": b"s/t\n"}]
    assert "leads out of the directory" in found[2][1].notes[0]


def test_what_was_there_before_belongs_to_others(node: OneNode) -> None:
    (Path(os.fsdecode(node.cwd)) / "old.npy").write_text("old")
    os.utime(node.cwd + b"/old.npy", (2e9, 2e9))  # mtime tells lies
    wait_for(
        lambda: captured_files.file_clock_ns() > os.stat(node.cwd + b"/old.npy").st_ctime_ns, "the clock has moved on"
    )
    files, notes = capture(node, "true", "*.npy", "old.npy", "never.npy")
    assert files == {}
    assert notes[0] == "*.npy: no such file was made or changed by the attempt (1 there before)"
    assert notes[2] == "never.npy: no such file was made or changed by the attempt"
    files, notes = capture(node, "cp -p old.npy new.npy", "*.npy")
    assert (files, notes) == ({"new.npy": b"old"}, ())


def test_in_one_slot_no_task_takes_the_file_of_the_one_before(make_node: type[OneNode]) -> None:
    node = make_node(1)  # type: ignore[arg-type]
    commands = [f"echo {number} > result" if number % 2 else "true" for number in range(1, 41)]
    first = node.start(*commands, policy=Policy(capture=("result",)))
    node.wait(range(first, first + 40))
    for number in range(1, 41, 2):
        assert taken(node, first + number - 1)[0] == {"result": b"%d\n" % number}
    for number in range(2, 41, 2):
        assert taken(node, first + number - 1)[0] == {}


def test_hostile_directories(node: OneNode) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(node.cwd + b"/never-mind")
    command = (
        "mkfifo a.npy; ln -s /etc/shadow b.npy; ln -s /dev/zero c.npy; mkdir d.npy; ln -s /etc e; ln -s . loop;"
        " touch g.npy; chmod 0 g.npy; ln -s nowhere h.npy; ln never-mind i.npy"
    )
    node.run("true")
    descriptors = len(os.listdir(f"/proc/{node.launcher.pid}/fd"))
    started = time.monotonic()
    files, notes = capture(node, command, "*.npy", "d.npy", "e/passwd", "loop/loop/*.npy", "a.npy/x", "**/b.npy")
    assert time.monotonic() - started < 20
    assert not {name for name in files if name != "g.npy"}, "root may read g"
    said = "\n".join(notes)
    for sentence in (
        "a.npy: a named pipe, not taken",
        "b.npy: a symbolic link, not taken",
        "c.npy: a symbolic link, not taken",
        "h.npy: a symbolic link, not taken",
        "i.npy: a socket, not taken",
        "d.npy: a directory, not taken",
        "e: a symbolic link, not followed",
        "loop: a symbolic link, not followed",
        "a.npy: a named pipe, not followed",
    ):
        assert sentence in said
    assert len(os.listdir(f"/proc/{node.launcher.pid}/fd")) == descriptors
    server.close()


def test_names_of_any_bytes(node: OneNode) -> None:
    files, notes = capture(node, b"echo 1 > $'n\\nl.npy'; echo 2 > $'\\xff\\xe4.npy'; echo 3 > ' \\*?.npy'", "*.npy")
    assert {os.fsencode(name): content for name, content in files.items()} == {
        b"n\nl.npy": b"1\n",
        b"\xff\xe4.npy": b"2\n",
        b" \\*?.npy": b"3\n",
    }
    assert notes == ()


def test_ten_thousand_files(node: OneNode) -> None:
    make = "mkdir many; cd many; for i in {10001..20000}; do echo $i > $i; done"
    files, notes = capture(node, make, "many/*")
    assert len(files) == 10_000 and files["many/12345"] == b"12345\n" and notes == ()
    files, notes = capture(node, "cd many; touch *; touch one more", "many/*")
    assert len(files) == captured_files.FILES_MAX
    assert notes == ("many/*: there are more than 10,000 files; the rest was left",)


def test_a_file_that_grows_and_one_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    for change in (2000, 10):
        path = tmp_path / "file"
        path.write_bytes(b"x" * 1000)
        patterns = [captured_files.CapturePattern("file")]
        of_task = captured_files.Taking(os.fsencode(tmp_path), patterns, {}, 0)
        pieces = []
        for piece in of_task.steps():
            pieces.append(piece or b"")
            os.truncate(path, change)
        contents = parse_contents(of_task.listing.text())
        assert contents.entries[0].length == len(b"".join(pieces)) == 1000
        assert of_task.missed and contents.notes == ("file: it changed while it was read",)


def test_a_file_that_never_ends_growing_ends(node: OneNode) -> None:
    """The writer is in a group of its own, so it outlives the task for a moment: until its orphans are swept."""
    files, _ = capture(node, "dd if=/dev/zero of=big bs=1M count=64 2>/dev/null & sleep 0.3; wait", "big")
    assert files["big"] == bytes(64 << 20)


def test_the_slot_is_held_until_the_files_are_in(make_node: type[OneNode]) -> None:
    node = make_node(1)  # type: ignore[arg-type]
    writes = [f"head -c 5000000 /dev/zero | tr '\\0' {digit} > same" for digit in range(1, 7)]
    first = node.start(*writes, policy=Policy(capture=("same",)))
    node.wait(range(first, first + 6), 60)
    for digit in range(1, 7):
        assert taken(node, first + digit - 1)[0] == {"same": b"%d" % digit * 5_000_000}


def test_a_rank_that_does_not_listen_stops_the_taking(node: OneNode) -> None:
    task = node.start("truncate -s 1G sparse", policy=Policy(capture=("sparse",)))
    fdinfo = Path(f"/proc/{node.launcher.pid}/fdinfo")

    def position() -> int:
        """How far the file was read."""
        for fd in Path(f"/proc/{node.launcher.pid}/fd").iterdir():
            try:
                if os.readlink(fd).endswith("/sparse"):
                    return int((fdinfo / fd.name).read_text().split()[1])
            except OSError:
                continue
        return 0

    wait_for(position, "the file is being read")
    seen = [0, 1]

    def still() -> bool:
        seen.append(position())
        return seen[-1] == seen[-2] == seen[-3]

    wait_for(still, "the reading stops")
    assert 0 < position() < 40 << 20
    node.drain(0.0)
    node.wait([task], 60)
    ended = node.ended[task]
    assert (ended.state, ended.failure) == (State.RETURNED, FailureClass.WALLTIME)
    assert not position(), "the file is closed"
    assert "the run ended while the files were taken" in taken(node, task)[1].notes


def test_the_time_limit_is_for_the_process(node: OneNode) -> None:
    task = node.start("truncate -s 300M sparse", limit_s=0.5, policy=Policy(capture=("sparse",)))
    node.wait([task], 60)
    assert node.ended[task].state == State.SUCCEEDED
    assert taken(node, task)[1].entries[0].length == 300 << 20
