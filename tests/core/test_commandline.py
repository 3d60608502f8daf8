"""What `plan` and `find_flaw` say of a line is compared with what bash does with it."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mpifarm.core.job.commandline import BASH_WORDS, find_flaw, plan, shell_is_altered

DIFFERENTIAL = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def bash(*arguments: bytes, locale: str = "C") -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": os.defpath, "LC_ALL": locale}
    return subprocess.run(["bash", *arguments], env=environ, capture_output=True, timeout=10, check=False)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"/bin/true", [b"/bin/true"]),
        (b"  prog\t-a  b ", [b"prog", b"-a", b"b"]),
        (b"prog --x=1 a,b:c@d%e+f^g_h.i", [b"prog", b"--x=1", b"a,b:c@d%e+f^g_h.i"]),
        (b"prog 'a b' \"c  d\" ''", [b"prog", b"a b", b"c  d", b""]),
        (b"prog 'a'b\"c\"d e''", [b"prog", b"abcd", b"e"]),
        (b"prog '$x `y` \\z #' \"it's {a,b} * ? ~ #\"", [b"prog", b"$x `y` \\z #", b"it's {a,b} * ? ~ #"]),
        (b"'my prog' x", [b"my prog", b"x"]),
        (b"./echo x", [b"./echo", b"x"]),
        (b"prog echo if", [b"prog", b"echo", b"if"]),
        ("prog é\N{NO-BREAK SPACE}x".encode(), [b"prog", "é\N{NO-BREAK SPACE}x".encode()]),
        (b"prog \xff\xfe '\x80'", [b"prog", b"\xff\xfe", b"\x80"]),
    ],
)
def test_lines_that_need_no_shell(line: bytes, argv: list[bytes]) -> None:
    assert plan(line, shell_only=False) == tuple(argv)
    assert plan(line, shell_only=True) is None


@pytest.mark.parametrize(
    "line",
    [
        b"", b"  ", b"''", b'"" x', b"a|b", b"a;b", b"a&", b"a >x", b"a <x", b"a (b)", b"a $x", b"a `b`",
        b"a \\b", b"a *",
        b"a ?", b"a [b]", b"a {b,c}", b"a ~", b"a #b", b"a !", b"!a", b'a "!b"', b'a "$b"', b'a "`b`"',
        b'a "\\b"',
        b"a 'b", b'a "b', b"a'", b"x=1", b"x=1 a", b"x+=1 a", b"./x=1 a", b"%1", b"-c", b"+x", b"a\nb",
        b"a\rb", b"a\0b",
        b"a '\n'", b'a "\n"', b"a '\x01'", b"a \x7f", b"echo a", b"'echo' a", b"ec''ho a", b"[ a ]", b". a",
        b": a",
        b"/usr/bin/[ x", b"time a", b"if a", b"exec a", b"cd x", b"a $'b'", b'a $"b"',
    ],
)  # fmt: skip
def test_lines_for_bash(line: bytes) -> None:
    assert plan(line, shell_only=False) is None


def test_every_word_that_bash_knows_is_known() -> None:
    listed = bash(b"-c", b"compgen -b; compgen -k").stdout.split()
    assert listed and BASH_WORDS.issuperset(listed)


@pytest.mark.parametrize(
    ("names", "altered"),
    [
        (["PATH", "HOME", "BASH", "BASH_VERSION"], False),
        (["BASH_ENV"], True),
        (["SHELLOPTS"], True),
        (["A", "BASH_FUNC_module%%"], True),
    ],
)
def test_environments_that_alter_the_shell(names: list[str], altered: bool) -> None:
    assert shell_is_altered(names) is altered


TEXT = st.binary(max_size=6).map(lambda text: text.replace(b"\0", b""))
PIECES = st.one_of(
    st.sampled_from([b" ", b"  ", b"\t", b"a", b"x=1", b"--b=c", b"a,b", b"%1", b"echo", b"if", b"-",
                     b"^a^b", b"''", b'""']),
    st.sampled_from([b"{", b"}", b"*", b"~", b"#", b"!", b"$", b"\\", b"`", b"'", b'"', b";", b"(", b"[",
                     b"]", b"<", b"="]),
    st.sampled_from([b"\xc3", b"\xa9", b"\xe2\x82", b"\xff", b"\xc2\xa0", b"\x80", b"\xf0\x9f\x98\x80",
                     b"\x7f", b"\x01"]),
    TEXT.map(lambda text: b"'" + text.replace(b"'", b"") + b"'"),
    TEXT.map(lambda text: b'"' + text.replace(b'"', b"") + b'"'),
    st.text("abz019_-./,:@%+^=", max_size=5).map(str.encode),
)  # fmt: skip


@pytest.fixture(scope="module")
def printer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program that prints its arguments, each ended by NUL."""
    path = tmp_path_factory.mktemp("bin") / "print-arguments"
    path.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    path.chmod(0o755)
    return os.fsencode(path)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_plan_means_what_bash_means(locale: str, printer: bytes) -> None:
    planned = 0

    @DIFFERENTIAL
    @given(st.lists(PIECES.filter(lambda piece: b"\n" not in piece), min_size=4, max_size=14).map(b"".join))
    @example(b"\xc3 'a' \xe2\x82\"b\" \xff")
    @example(b"'\xc3' \xc3''\xa9 a\xf0\x9f'\x98'")
    def check(tail: bytes) -> None:
        nonlocal planned
        line = printer + b" ok" + tail
        argv = plan(line, shell_only=False)
        if argv is None:
            return
        planned += 1
        ran = bash(b"-c", line, locale=locale)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout == b"".join(word + b"\0" for word in argv[1:])

    check()
    assert planned > 10, "too few of the lines were planned to prove anything"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_plain_lines_are_planned_and_mean_what_bash_means(locale: str, printer: bytes) -> None:
    """Every character that may stand in a plain word, in both locales, in one line."""
    high = [bytes([byte]) for byte in range(0x80, 0x100)]
    words = [b"^a", b"%1", b"a=b", b"x,y", b"@", b"+", b":", b".", b"-", b"=", *high, b"a" + b"".join(high) + b"z"]
    line = b" ".join([printer, *words])
    assert plan(line, shell_only=False) == (printer, *words)
    assert bash(b"-c", line, locale=locale).stdout == b"".join(word + b"\0" for word in words)
    quoted = b" ".join([printer, *(b"'%s'" % word for word in words), *(b'"%s"' % word for word in words)])
    assert plan(quoted, shell_only=False) == (printer, *words, *words)
    assert bash(b"-c", quoted, locale=locale).stdout == b"".join(word + b"\0" for word in words * 2)


SINGLE = "single quote"
DOUBLE = "double quote"
CONTINUED = "continue"


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"it's", 2, SINGLE),
        (b"prog 'a b", 5, SINGLE),
        (b"prog 'a' 'b' 'c", 13, SINGLE),
        (b"prog $'a\\'", 5, SINGLE),
        (b"prog 'a \\", 5, SINGLE),
        (b"a#'b", 2, SINGLE),
        (b'prog "a b', 5, DOUBLE),
        (b'prog "a \\" b', 5, DOUBLE),
        (b"prog \"it's", 5, DOUBLE),
        (b'prog "a\\', 5, DOUBLE),
        (b"prog a \\", 7, CONTINUED),
        (b"prog a\\", 6, CONTINUED),
        (b"prog a\\\\\\", 8, CONTINUED),
        (b"prog $(date) \\", 13, CONTINUED),
    ],
)
def test_flaws_are_found(line: bytes, column: int, reason: str) -> None:
    flaw = find_flaw(line)
    assert flaw is not None
    assert flaw[0] == column
    assert reason in flaw[1]


@pytest.mark.parametrize(
    "line",
    [
        b"prog a b", b"prog 'a' \"b\"", b"prog # it's", b"prog;# it's", b"# it's \\", b"prog # a \\",
        b"prog \\'", b"prog \\\"",
        b"prog a\\\\", b"prog \"it's\"", b"prog '\"'", b"prog $'it\\'s'", b"prog $$'a\\'",
        b"prog \"$(echo \"a\")\"",
        b"prog \"`echo \\\"a\\\"`\"", b"prog \"${x:-\"it's\"}\"", b"prog ${x:-'a'}", b"prog $(echo ')')",
        b"prog $((1 + 2)) 'a'",
        b"cat <<< 'a'", b"cat <<E 'a'", b"prog <(echo 'a')", b"(prog 'a')", b"case a in (a) prog 'b';; esac",
        b"prog $\"a\"",
        b"prog \"a$\"", b"prog a$", b"prog $# 'a'", b"awk '{print $1}' x", b"prog $(date) # \\",
        b"prog '\\'", b"prog \"$'\"",
        b"[[ a =~ 'b' ]]", b"prog \"a\\\\\"", b"prog a\"b\"'c'#d",
    ],
)  # fmt: skip
def test_valid_lines_pass(line: bytes) -> None:
    assert bash(b"-n", b"-c", line).returncode == 0
    assert find_flaw(line) is None


SYNTAX = st.sampled_from(
    [b"'", b'"', b"\\", b"#", b"$", b"$'", b"$$", b"`", b"${", b"}", b"$(", b")", b"(", b"((", b"))", b"<",
     b"<<", b"<<<", b"<(",
     b"$[", b"]", b"[", b"[[ ", b" ]]", b" ", b" ", b";", b"&", b"|", b"a", b"a=", b"a[", b"x", b"!", b"{ ",
     b"=~", b"E",
     b"case a in ", b"esac", b";;", b"\xc3", b"\xe2\x82", b"\xff", b"@(", b"*", b"~", b":-"]
)  # fmt: skip


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_what_is_refused_is_never_valid(locale: str) -> None:
    refused = 0

    @DIFFERENTIAL
    @given(st.lists(SYNTAX, min_size=3, max_size=12).map(b"".join))
    def check(line: bytes) -> None:
        nonlocal refused
        flaw = find_flaw(line)
        if flaw is not None and "continue" not in flaw[1]:
            refused += 1
            assert bash(b"-n", b"-c", b"--", line, locale=locale).returncode != 0

    check()
    assert refused > 10, "too few of the lines were refused to prove anything"


@pytest.mark.slow
def test_long_lines_take_linear_time() -> None:
    """Lines of the greatest length, made to provoke backtracking; a quadratic pattern would take hours."""
    for line in (b"'" + b"\\a$x" * 250_000, b'"' + b"\\a$x " * 200_000, b"$'" + b"\\'a" * 300_000, b"a 'b' " * 170_000):
        find_flaw(line)
        plan(line, shell_only=False)
