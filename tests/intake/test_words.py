"""Words after `--`: several reach the program exactly, one is the shell's, and what nothing fills is refused."""

from __future__ import annotations

import io
import os
import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpifarm.core.job.commandline import KEYWORDS, plan
from mpifarm.core.needs import Needs
from mpifarm.errors import UsageError
from mpifarm.intake.expand import Expansion, expand_arguments
from mpifarm.intake.replacement import command_line

WORDS = st.one_of(
    st.binary(max_size=8).map(lambda word: word.replace(b"\0", b"")),
    st.sampled_from(
        [*sorted(KEYWORDS), b"", b"~", b"-x", b"+x", b"A=1", b"a b", b"$x", b"{}", b"*", b"'", b"!", b"\n"]
    ),
)


def queued(*words: str, stdin: bytes = b"", told: list[str] | None = None, **source: str) -> list[bytes]:
    asked = Expansion(words, **source)
    parts = expand_arguments(asked, Needs(), io.BytesIO(stdin), (told if told is not None else []).append)
    return [task.body for part in parts for task in part.tasks]


def refused(*words: str, **source: str) -> str:
    with pytest.raises(UsageError) as caught:
        queued(*words, **source)
    return str(caught.value)


@settings(deadline=None, max_examples=50, derandomize=True, database=None)
@given(st.lists(WORDS, min_size=2, max_size=8))
@example([b"prog", b"-c", b"cd sub && rm -f junk keep1"])
@example([b"awk", b"{print $1}", b"it's"])
def test_an_argument_list_reaches_the_program_exactly(words: list[bytes]) -> None:
    line = command_line([b"printf", b"%s\\0", *words])
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=10, env={"LC_ALL": "C"})
    assert ran.stdout == b"".join(word + b"\0" for word in words)
    direct = plan(command_line([b"./prog", *words]), shell_only=False)
    assert direct is None or direct == (b"./prog", *words)
    if not any(byte < 32 or byte == 127 for word in words for byte in word):
        assert direct is not None, "no shell is needed for words that hold no control characters"


@pytest.mark.parametrize("program", [*sorted(KEYWORDS), b"A=1", b"-x", b"+e", b"", b"~", b"a b"])
def test_the_first_word_is_never_syntax(program: bytes) -> None:
    """Whatever it is, bash looks for a program of that name."""
    line = command_line([program, b"x"])
    bash = shutil.which("bash")
    assert bash
    ran = subprocess.run([bash, "-c", line], capture_output=True, timeout=10, env={"LC_ALL": "C", "PATH": "/nowhere"})
    assert ran.returncode in (126, 127), ran.stderr
    assert b"syntax" not in ran.stderr
    assert queued("{}", "x", ":::", os.fsdecode(program) or "''")[0] != program + b" x" or program not in KEYWORDS


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["bash", "-c", "cd sub && rm -f junk keep1"], b"bash -c 'cd sub && rm -f junk keep1'"),
        (["grep", "-c", "foo bar", "f"], b"grep -c 'foo bar' f"),
        (["awk", "{print $1}", "f"], b"awk '{print $1}' f"),
        (["awk", "{print}", "f"], b"awk '{print}' f"),
        (["python3", "-c", "print(1+1)"], b"python3 -c 'print(1+1)'"),
        (["find", ".", "-exec", "wc", "{}", ";"], b"find . -exec wc '{}' ';'"),
        (["grep", "-E", "a{3}", "f"], b"grep -E 'a{3}' f"),
        (["prog", "{a,b}", "{1..3}", "x{3}", "${x}"], b"prog '{a,b}' '{1..3}' 'x{3}' '${x}'"),
        (["cd sub && rm -f junk"], b"cd sub && rm -f junk"),
        (["{ a; b; }"], b"{ a; b; }"),
        (["echo ${x} {1..3} {a,b}"], b"echo ${x} {1..3} {a,b}"),
        (["awk '{print}' f"], b"awk '{print}' f"),
        (["prog '{alpha}' \"{}\""], b"prog '{alpha}' \"{}\""),
        (["exec {fd}>file; ./prog"], b"exec {fd}>file; ./prog"),
        (["ls | xargs -I{} wc {}"], b"ls | xargs -I{} wc {}"),
        (["git show HEAD@{1}"], b"git show HEAD@{1}"),
    ],
)
def test_what_is_ordinary_goes_on_working(words: list[str], command: bytes) -> None:
    assert queued(*words) == [command]


@pytest.mark.parametrize(
    ("words", "column", "what"),
    [
        (["wc", "-c", "{}"], 7, "{}"),
        (["wc -c {}"], 7, "{}"),
        (["wc {}|sort"], 4, "{}"),
        (["prog", "--alpha={alpha}"], 14, "{alpha}"),
        (["prog --alpha={alpha} > out"], 14, "{alpha}"),
        (["prog $HOME/{alpha}"], 12, "{alpha}"),
        (["prog", "é/{2.}"], 8, "{2.}"),
        (["prog", "out{#}"], 9, "{#}"),
        (["prog", "{/.}"], 6, "{/.}"),
    ],
)
def test_placeholders_that_nothing_fills_are_refused(words: list[str], column: int, what: str) -> None:
    message = refused(*words)
    assert message.startswith(f"command:1:{column}: nothing fills {what}: ")
    assert ("--from-json" if what == "{alpha}" else "--each-line FILE (- is stdin)") in message


def test_only_records_fill_names() -> None:
    for source in ({"array": "1-3"}, {"each_line": "-"}):
        message = refused("prog", "{}", "{alpha}", **source)
        assert "nothing fills {alpha}: {}, {1}, {#} stand for values; --from-json FILE fills it" in message
    assert "nothing fills {x}" in refused("prog", "{x}", ":::", "a")
    assert queued("prog", "-a={x} y", "{{}}", from_json="-", stdin=b'{"x":"a b"}') == [b"prog -a='a b'' y' '{}'"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["echo", "a", "|", "wc"], "warning: echo gets '|' as it stands"),
        (["prog", "x", ">", "out"], "warning: prog gets '>' as it stands"),
        (["./prog", "2>&1"], "warning: prog gets '2>&1' as it stands"),
        (["echo", "--to=$SCRATCH/x"], "warning: echo gets '--to=$SCRATCH/x' as it stands"),
        (["expr", "1", "<", "2"], None),
        (["find", ".", "-exec", "ls", ";"], None),
        (["bash", "-c", "echo $HOME | wc"], None),
        (["echo $HOME | wc"], None),
    ],
)
def test_words_that_only_a_shell_understands_are_told(words: list[str], told: str | None) -> None:
    sentences: list[str] = []
    queued(*words, told=sentences)
    assert [sentence[: len(told or "")] for sentence in sentences] == ([told] if told else [])


@pytest.mark.parametrize("words", [["N=4", "./prog"], ["N={}", "./prog", "x", ":::", "1"], ["N+=x", "a b"]])
def test_a_variable_before_the_program_is_refused(words: list[str]) -> None:
    message = refused(*words)
    assert "would be the program" in message
    assert f"write env {words[0]} ..." in message
    assert queued("N=4 ./prog") == [b"N=4 ./prog"]


def test_blank_values_of_a_source_are_told_once() -> None:
    told: list[str] = []
    assert queued("prog", "::::", "-", stdin=b"a\n\nb\n\n", told=told) == [b"prog a", b"prog ''", b"prog b", b"prog ''"]
    assert len(told) == 1
    assert told[0].startswith("warning: -:2: a blank line is a value")


def test_where_the_value_is_when_the_command_does_not_show_it() -> None:
    hint = "the command is the same for all tasks: each finds its value in MPIFARM_ENTRY"
    for source in ({"array": "1-2"}, {"each_line": "-"}, {"from_json": "-"}):
        told: list[str] = []
        queued("./prog", told=told, stdin=b"{}\n{}\n", **source)
        assert told == [hint]
    for words in (["./prog", "{}"], ["./prog {#}"]):
        told = []
        queued(*words, told=told, array="1-2")
        assert told == []
    queued("./prog", ":::", "a", told=told)
    queued("./prog", told=told)
    assert told == []
