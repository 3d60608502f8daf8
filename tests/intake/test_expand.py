"""The expected commands of GNU parallel's style are what GNU parallel 20221122 printed with `--dry-run -k`."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpifarm.core.model import TaskText
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.expand import RUN_BYTES_MAX, Expansion, expand_arguments
from mpifarm.intake.replacement import quote
from mpifarm.intake.taskfile import RUN_TASKS_MAX

SHAPE = Needs(cpus=3)


class Endless(io.RawIOBase):
    """A file of the line `x` without end."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # the Buffer of 3.12
        buffer[:2] = b"x\n"
        return 2


def tasks(asked: Expansion, stdin: bytes = b"") -> list[TaskText]:
    parts = list(expand_arguments(asked, SHAPE, io.BytesIO(stdin)))
    assert {part.needs for part in parts} == {SHAPE}
    return [task for part in parts for task in part.tasks]


def parallel(*words: str, stdin: bytes = b"") -> list[str]:
    return [os.fsdecode(task.body) for task in tasks(Expansion(words), stdin)]


def refusal(asked: Expansion, stdin: bytes = b"") -> str:
    with pytest.raises(UsageError) as caught:
        tasks(asked, stdin)
    return str(caught.value)


def test_a_command_alone_is_one_task() -> None:
    assert tasks(Expansion(["echo", "$HOME", "a  b"])) == [TaskText(b"echo '$HOME' 'a  b'", None)]
    assert tasks(Expansion(["echo a | wc"])) == [TaskText(b"echo a | wc", None)]


@pytest.mark.parametrize("words", [[], [""], [" ", ""]])
def test_no_command(words: list[str]) -> None:
    for asked in (Expansion(words), Expansion(words, array="1-3"), Expansion(words, from_json="x")):
        assert refusal(asked) == "there is no command: write it after --"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["echo", ":::", "a", "b"], ["echo a", "echo b"]),
        (["echo", "{}", ":::", "a b"], ["echo 'a b'"]),
        (["echo", "$HOME", "a  b", "{}x", "", "y", ":::", "q"], ["echo '$HOME' 'a  b' qx '' y"]),
        (["echo $HOME {} | wc", ":::", "q"], ["echo $HOME q | wc"]),
        (["echo", "|", "wc", "{}", ":::", "a|b", "*"], ["echo '|' wc 'a|b'", "echo '|' wc '*'"]),
        (["echo | wc {}", ":::", "a|b", "*"], ["echo | wc 'a|b'", "echo | wc '*'"]),
        (["echo", "--in={} x", ":::", "a b"], ["echo --in='a b'' x'"]),
        (['echo "{}"', ":::", "a b"], ["echo \"'a b'\""]),
        (["echo", ":::", "a", "b", ":::", "1", "2"], ["echo a 1", "echo a 2", "echo b 1", "echo b 2"]),
        (["echo {} {}", ":::", "a", ":::", "1", "2"], ["echo a 1 a 1", "echo a 2 a 2"]),
        (["echo", "{2}", "{1}", ":::", "a", "b", ":::", "1"], ["echo 1 a", "echo 1 b"]),
        (["echo", "{1}{2}", ":::", "a", ":::", "b"], ["echo ab"]),
        (["echo", "{-1}", "{-2}", ":::", "a", ":::", "b"], ["echo b a"]),
        (["echo", "{#}", ":::", "a", "b", ":::", "c"], ["echo 1", "echo 2"]),
        (["echo", "{.}", ":::", "a.x", ":::", "b.c"], ["echo a b"]),
        (
            ["echo", "{2}", "{1.}", "{1/}", "{1//}", "{1/.}", "{#}", ":::", "d/a.txt", ":::", "z"],
            ["echo z d/a a.txt d a 1"],
        ),
        (["echo", "{1}", "{2}", ":::", "a", "b", "c", ":::+", "1", "2"], ["echo a 1", "echo b 2"]),
        (
            ["echo", ":::", "a", "b", ":::", "1", "2", ":::+", "x", "y"],
            ["echo a 1 x", "echo a 2 y", "echo b 1 x", "echo b 2 y"],
        ),
        (
            ["echo", ":::", "a", "b", ":::+", "1", "2", ":::", "x", "y", ":::+", "X", "Y"],
            ["echo a 1 x X", "echo a 1 y Y", "echo b 2 x X", "echo b 2 y Y"],
        ),
        (["echo { } {+} {0x} ${HOME} '{a}'", ":::", "v"], ["echo { } {+} {0x} ${HOME} '{a}' v"]),
        (["echo", "{ } {a} {+} {0x} ${HOME}", ":::", "v"], ["echo '{ } {a} {+} {0x} ${HOME}' v"]),
        (["echo", "{1}", ":::", "{1}", "{}"], ["echo '{1}'", "echo '{}'"]),
        ([":::", "echo a", 'echo "b c"'], ["echo a", 'echo "b c"']),
    ],
)
def test_as_gnu_parallel(line: list[str], expected: list[str]) -> None:
    assert parallel(*line) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a/b.c/d", "a/b.c/d d a/b.c d"),
        ("/x", "/x x / x"),
        ("x.tar.gz", "x.tar x.tar.gz . x.tar"),
        (".hid", "'' .hid . ''"),
        ("a/.hid", "a/ .hid a ''"),
        ("dir/", "dir/ '' . ''"),
        ("/", "/ '' / ''"),
        ("", "'' '' . ''"),
        ("a.", "a a. . a"),
        ("a/b/", "a/b/ '' a ''"),
        ("x y/z w.t t", "'x y/z w' 'z w.t t' 'x y' 'z w'"),
        ("a//b", "a//b b a b"),
        ("//b", "//b b / b"),
        ("//", "// '' / ''"),
        ("a//", "a// '' . ''"),
    ],
)
def test_parts_of_paths(value: str, expected: str) -> None:
    assert parallel("{.} {/} {//} {/.}", ":::", value) == [expected]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (b"", b"''"),
        (b"a-b_c.d+e/F9", b"a-b_c.d+e/F9"),
        (b"a b", b"'a b'"),
        (b"a=b", b"'a=b'"),
        (b"a,b:c@d%e", b"'a,b:c@d%e'"),
        (b"it's", b"'it'\"'\"'s'"),
        (b"'", b'"\'"'),
        (b"''", b"\"'\"''\"'\""),
        (b"'a'", b"\"'\"'a'\"'\""),
        (b"a\nb", b"'a\nb'"),
        (b"\xff\xc3\xa9", b"'\xff\xc3\xa9'"),
        (b"$x `y` \\z !", b"'$x `y` \\z !'"),
    ],
)
def test_quoting_as_gnu_parallel(value: bytes, quoted: bytes) -> None:
    assert quote(value) == quoted


@settings(deadline=None, max_examples=30, derandomize=True, database=None)
@given(st.lists(st.binary(max_size=12).map(lambda value: value.replace(b"\0", b"")), min_size=1, max_size=20))
def test_a_quoted_value_is_one_word_of_the_shell(values: list[bytes]) -> None:
    line = b"printf '%s\\0' " + b" ".join(map(quote, values))
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=10, env={"LC_ALL": "C"})
    assert ran.stdout == b"".join(value + b"\0" for value in values)


def test_values_that_are_no_utf8_survive() -> None:
    made = tasks(Expansion([os.fsdecode(b"pr\xff"), "{}", ":::", os.fsdecode(b"\xfe/\xfd.x")]))
    assert made == [TaskText(b"'pr\xff' '\xfe/\xfd.x'", b"\xfe/\xfd.x")]


def test_the_entry_holds_the_values_as_they_are() -> None:
    made = tasks(Expansion(["echo", "{1}", ":::", "it's", "", ":::", "x y"]))
    assert [task.entry for task in made] == [b"it's\tx y", b"\tx y"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    contents = {"letters": b"a\n\n b \nc d\n", "digits": b"\xef\xbb\xbf1\n2\r\n3", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    letters, digits, empty = (str(tmp_path / name) for name in contents)
    return letters, digits, empty


def test_values_from_files(files: tuple[str, str, str]) -> None:
    letters, digits, _ = files
    assert parallel("echo", "::::", letters) == ["echo a", "echo ''", "echo ' b '", "echo 'c d'"]
    expected = [f"echo {a} {b}" for a in ("a", "''", "' b '", "'c d'") for b in "123"]
    assert parallel("echo", "::::", letters, digits) == expected
    assert parallel("echo", "::::", letters, "::::", digits) == expected
    assert parallel("echo", "::::", letters, "::::+", digits) == ["echo a 1", "echo '' 2", "echo ' b ' 3"]
    assert parallel("echo", ":::", "x", "y", "::::+", letters, digits) == ["echo x a 1", "echo y '' 2"]
    assert parallel("echo", "::::", digits, ":::", "x") == ["echo 1 x", "echo 2 x", "echo 3 x"]
    assert parallel("echo", ":::", "x", "::::", "-", stdin=b"1\n2\n") == ["echo x 1", "echo x 2"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["echo", ":::"], "::: has no value after it"),
        (["echo", ":::", "a", "::::"], ":::: has no file after it"),
        (["echo", ":::", ":::", "a"], "::: has no value after it"),
        (["echo", ":::+", "a"], ":::+ goes along with the source before it, and there is none"),
        (["echo", "{3}", ":::", "a", ":::", "b"], "{3} stands in the command, but the number of sources is 2"),
        (["echo", "{-3/.}", ":::", "a", ":::", "b"], "{-3/.} stands in the command"),
        (["echo", "{%}", ":::", "a"], "{%} cannot be filled in"),
        (["echo", "::::", "-", "-"], "stdin (-) can be read only once"),
        (["echo", "::::", "/nonexistent/file"], "/nonexistent/file: No such file or directory"),
        (["echo", "::::", "/"], "/: Is a directory"),
        (['echo "{}"', ":::", "a", "it's"], "combination:2:16: the single quote opened here is not closed"),
        (["x" * 600_000 + "{}", ":::", "a", "b" * 600_000], "combination:2:1: the command is longer than"),
    ],
)
def test_wrong_sources(words: list[str], reason: str) -> None:
    assert refusal(Expansion(words)).startswith(reason)


def test_wrong_files(files: tuple[str, str, str]) -> None:
    letters, _, empty = files
    assert refusal(Expansion(["echo", "::::", empty])) == f"{empty}: there is no line in it"
    assert refusal(Expansion(["echo", "::::", letters, empty])) == f"{empty}: there is no line in it"
    assert refusal(Expansion(["echo", "::::", "-"]), b"a\nb\0\n").startswith("-:2: a NUL byte")
    assert refusal(Expansion(["echo", "::::", "-"]), b"a\n" + b"x" * (3 << 20)).startswith("-:2: the line is longer")


def test_array() -> None:
    made = tasks(Expansion(["prog", "--seed={}", "{#}"], array="7-9,0-4:2"))
    assert [task.body for task in made] == [
        b"prog --seed=%d %d" % x for x in ((0, 1), (2, 2), (4, 3), (7, 4), (8, 5), (9, 6))
    ]
    assert [task.entry for task in made] == [b"0", b"2", b"4", b"7", b"8", b"9"]
    assert set(tasks(Expansion(["prog", "x"], array="1-3"))) == {TaskText(b"prog x", b"%d" % n) for n in (1, 2, 3)}
    zeros = tasks(Expansion(["prog"], array="001-003,10"))
    assert [task.entry for task in zeros] == [b"001", b"002", b"003", b"010"]
    assert [task.entry for task in tasks(Expansion(["prog"], array="0-2,08-10:2"))][-1:] == [b"10"]
    assert "'3-1' ends before it begins" in refusal(Expansion(["prog"], array="3-1"))
    assert "number of sources is 1" in refusal(Expansion(["prog {2}"], array="1-3"))


def test_each_line() -> None:
    told: list[str] = []
    asked = Expansion(["prog {} {/.}"], each_line="-")
    parts = expand_arguments(asked, SHAPE, io.BytesIO(b"a b/c.d\r\n\n# x\n \t\n\xff"), told.append)
    made = [task for part in parts for task in part.tasks]
    assert told == ["-: 2 blank lines left out, the first is line 2"]
    assert made == [
        TaskText(b"prog 'a b/c.d' c", b"a b/c.d"),
        TaskText(b"prog '# x' '# x'", b"# x"),
        TaskText(b"prog '\xff' '\xff'", b"\xff"),
    ]
    assert tasks(Expansion(["prog"], each_line="-"), b"it's\n") == [TaskText(b"prog", b"it's")]
    assert refusal(Expansion(["prog"], each_line="-")) == "-: there is no line in it"
    assert refusal(Expansion(["prog"], each_line="-"), b"\n \n") == "-: there are only blank lines in it"
    assert refusal(Expansion(["prog"], each_line="/nonexistent")) == "/nonexistent: No such file or directory"
    assert refusal(Expansion(["prog"], each_line="-"), b"a\n\0\n").startswith("-:2: a NUL byte")
    assert refusal(Expansion(['prog "{}"'], each_line="-"), b"a\nit's\n").startswith("-:2:16: the single quote")


def test_sources_exclude_each_other() -> None:
    for asked in (
        Expansion(["prog"], array="1", each_line="-"),
        Expansion(["prog"], each_line="-", from_json="x"),
        Expansion(["prog", ":::", "a"], array="1"),
    ):
        assert refusal(asked).startswith("only one of --array, --each-line, --from-json and :::")


RECORDS = [
    {"a": "x y", "b": 1},
    {"a": "it's", "b": 2.5, "c": None},
    {"a": True, "b": {"k": [1, "é"]}},
    {"a": "", "b": 10**30},
]
FILLED = [
    "prog -a 'x y' -b=1 '{}'",
    "prog -a 'it'\"'\"'s' -b=2.5 '{}'",
    "prog -a true -b='{\"k\":[1,\"é\"]}' '{}'",
    "prog -a '' -b=1000000000000000000000000000000 '{}'",
]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        "\n\n " + json.dumps(RECORDS, indent=2) + "\n\n",
        "\ufeff" + json.dumps(RECORDS, ensure_ascii=False),
        "\n".join(map(json.dumps, RECORDS)),
        "\ufeff" + "\r\n\r\n".join(map(json.dumps, RECORDS)) + "\n",
    ],
)
def test_from_json(content: str) -> None:
    made = tasks(Expansion(["prog", "-a", "{a}", "-b={b}", "{{}}"], from_json="-"), content.encode())
    assert [task.body.decode() for task in made] == FILLED
    assert [json.loads(task.entry or b"") for task in made] == RECORDS
    assert made[2].entry == '{"a":true,"b":{"k":[1,"é"]}}'.encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "-: there is no record in it"),
        (b" \n\n", "-: there is no record in it"),
        (b"[]", "-: there is no record in it"),
        (b'{"a":1}\n{"b":1, "c":2}\n', "-:2: record 2 has no key 'a'; it has b, c"),
        (b'{"a":1}\n\n{}\n', "-:3: record 2 has no key 'a'; it has no keys at all"),
        (b'[{"a":1},\n {"a":2},\n\n 3]', "-:4: record 3 is not an object"),
        (b'{"a":1}\n[2]\n', "-:2: record 2 is not an object"),
        (b'"x"\n', "-:1: record 1 is not an object"),
        (b'\n{"a":1}\n{"a":\n', "-:3:"),
        (b'{\n "a": 1\n}\n', "-:1:2: Expecting property name"),
        (b'{"a":1} {"a":2}\n', "-:1:9: Extra data"),
        (b'\n[{"a":1},\n {"a":2,}]', "-:3:"),
        (b'[{"a":1}\n {"a":2}]', "-:2:2: Expecting ',' or ']'"),
        (b'[{"a":1},]', "-:1:10:"),
        (b'[,{"a":1}]', "-:1:2: Expecting value"),
        (b'[{"a":1}', "-:1:9: Expecting ',' or ']'"),
        (b'[{"a":1}] x', "-:1:11: Something follows the array"),
        (b'{"a":1}\n{"a":"\xff"}\n', "-:2: 'utf-8' codec can't decode"),
        (b'{"a":1}\n{"a":NaN}\n', "-:2: NaN is not JSON"),
        (b'{"a":1}\n{"a":1e999}\n', "-:2: record 2 cannot be written as JSON"),
        (b'{"a":1}\n{"a":"\\ud800"}\n', "-:2: record 2 cannot be written as JSON"),
        (b'{"a":1}\n{"a":"x\\u0000"}\n', "-:2: record 2 has a NUL character in 'a'"),
        (b"[" * 200_000, "-:1: "),
    ],
)
def test_wrong_records(content: bytes, reason: str) -> None:
    assert refusal(Expansion(["prog {a}"], from_json="-"), content).startswith(reason)


@pytest.mark.parametrize(("command", "position"), [("prog {a", 6), ("prog a}", 7), ("prog {{a}", 9), ("x {a}}}{", 8)])
def test_single_braces(command: str, position: int) -> None:
    message = refusal(Expansion([command], from_json="-"), b'{"a":1}')
    assert message.startswith("a single ")
    assert f"stands at {position} in the command" in message


@pytest.mark.parametrize(
    "asked",
    [
        Expansion(["prog", "{}"], each_line="-"),
        Expansion(["prog", "::::", "-", ":::", "a", "b"]),
        Expansion(["prog", "::::", "-"]),
    ],
    ids=str,
)
def test_files_stream(asked: Expansion) -> None:
    stdin = io.BufferedReader(Endless())
    runs = list(itertools.islice(expand_arguments(asked, SHAPE, stdin), 3))
    assert [len(run.tasks) for run in runs] == [RUN_TASKS_MAX] * 3


def test_records_stream() -> None:
    class Records(io.RawIOBase):
        def __iter__(self) -> Iterator[bytes]:
            return itertools.repeat(b'{"a":1}\n')

    stdin = Records()
    runs = expand_arguments(Expansion(["prog {a}"], from_json="-"), SHAPE, stdin)  # type: ignore[arg-type]
    assert len(next(runs)[1]) == RUN_TASKS_MAX


def test_huge_arrays_stream() -> None:
    part = next(expand_arguments(Expansion(["prog"], array="0-4_000_000_000:3"), SHAPE, io.BytesIO()))
    assert part.tasks[-1].entry == b"29997"


def test_runs_are_limited_in_bytes() -> None:
    runs = expand_arguments(Expansion(["x" * 100_000, "{}"], array="1-200"), SHAPE, io.BytesIO())
    sizes = [sum(len(task.body) for task in run.tasks) for run in runs]
    assert len(sizes) == 3
    assert max(sizes) < RUN_BYTES_MAX + 200_000


@pytest.mark.parametrize("array", ["1-99999999999", "1-2147483647", "1-1500000000,1-1500000000"])
def test_more_than_a_job_holds_is_refused_before_anything_streams(array: str) -> None:
    with pytest.raises(UsageError, match="a job holds 2,147,483,646 at most"):
        expand_arguments(Expansion(["echo", "{}"], array=array), Needs(), io.BytesIO())
