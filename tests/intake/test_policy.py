"""What is done with attempts, as people type it."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpifarm.core.job.policy import CRASH_LIMIT, Policy, RetryRule
from mpifarm.core.model import FailureClass
from mpifarm.errors import UsageError
from mpifarm.intake.attempt_options import Wishes, parse_capture, parse_crash_limit, parse_keep, parse_retry_on

EXIT, SIGNAL = FailureClass.EXIT, FailureClass.SIGNAL


def policy(text: str, retries: int | None = None, **more: int) -> Policy:
    return Wishes(retries, parse_retry_on(text), **more).policy()  # type: ignore[arg-type]


def test_nothing_said_is_the_default() -> None:
    assert Wishes().policy() == Policy()
    assert Wishes(retries=3).policy() == Policy(retries=3)


@pytest.mark.parametrize(
    ("text", "retries", "rules", "crash_limit"),
    [
        ("exit", None, [(EXIT, None, 1)], CRASH_LIMIT),
        ("exit", 4, [(EXIT, None, 4)], CRASH_LIMIT),
        (" Exit : 137 = 2 ,OOM", 4, [(EXIT, 137, 2), (FailureClass.OOM, None, 4)], CRASH_LIMIT),
        ("exit:137,signal:9; lost=3", None, [(EXIT, 137, 1), (SIGNAL, 9, 1)], 4),
        ("signal:KILL;signal:sigterm=0", 2, [(SIGNAL, 9, 2), (SIGNAL, 15, 0)], CRASH_LIMIT),
        ("timeout=3;launch,walltime,lost", 0, [(FailureClass.TIMEOUT, None, 3), (FailureClass.LAUNCH, None, 1)], 5),
    ],
)
def test_rules(text: str, retries: int | None, rules: list[tuple[FailureClass, int, int]], crash_limit: int) -> None:
    found = policy(text, retries)
    assert found.rules == tuple(RetryRule(*rule) for rule in rules)
    assert found.crash_limit == crash_limit
    assert Policy.from_json(found.to_json()) == found


def test_what_is_only_said_of_losses_retries_nothing_else() -> None:
    assert policy("lost=2", 7) == Policy(crash_limit=3)
    with pytest.raises(UsageError, match="say the same"):
        policy("lost=2", crash_limit=3)


@pytest.mark.parametrize(
    ("text", "spot", "reason"),
    [
        ("exit:137,segv=2", "segv", "no failure class is called 'segv': there are exit, signal, timeout, oom, launch"),
        ("exit, ;oom", ";", "a rule is missing"),
        ("", "", "a rule is missing"),
        ("oom;exit:0", "exit", "'0' is not an exit code from 1 to 255"),
        ("exit:256", "exit", "'256' is not an exit code"),
        ("exit:9-12", "exit", "'9-12' is not an exit code"),
        ("exit:", "exit", "'' is not an exit code"),
        ("signal:FOO", "signal", "'FOO' is not a signal such as 9 or KILL"),
        ("signal:99", "signal", "'99' is not a signal"),
        ("oom:3", "oom", "oom has no code: only exit and signal have"),
        ("exit=many", "exit", "exit=TIMES: 'many' is not a whole number from 0 to 1000"),
        ("exit=1=2", "exit", "exit=TIMES: '1=2' is not"),
        ("exit=1001", "exit", "not a whole number from 0 to 1000"),
        ("exit;walltime=3", "walltime", "always runs again and never counts"),
        ("cancelled", "cancelled", "what people cancelled does not run again by itself"),
        ("lost=0", "lost", "--crash-limit 1 says so"),
        ("none", "none", "no failure class"),
        ("exit\0", "exit", "no failure class"),
        ("x" * 10_000, "x", "no failure class"),
        ("exit," * 100 + "bad", "bad", "no failure class"),
    ],
)
def test_bad_rules_are_shown(text: str, spot: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_retry_on(text)
    said, shown, caret = str(caught.value).split("\n")
    assert reason in said
    assert shown[caret.index("^") :].startswith(spot)
    assert max(map(len, (said, shown, caret))) < 200


@given(st.text())
def test_any_text_is_rules_or_refused(text: str) -> None:
    try:
        wishes = parse_retry_on(text)
    except UsageError:
        return
    assert all(wish.failure.name.lower() in text.lower() for wish in wishes)


def test_signals_by_name() -> None:
    for number in signal.Signals:
        assert policy(f"signal:{number.name}").rules[0].code == number


def test_the_crash_limit() -> None:
    assert [parse_crash_limit(text) for text in ("1", "never", " Never ")] == [1, 0, 0]
    for text in ("0", "-1", "soon", ""):
        with pytest.raises(UsageError, match="nodes lost"):
            parse_crash_limit(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("all", "all"),
        ("FAILED", "failed"),
        ("none", "none"),
        ("tail:64K", "tail:65536"),
        ("tail:1MiB", "tail:1048576"),
    ],
)
def test_what_is_kept(text: str, kept: str) -> None:
    assert parse_keep(text) == kept


@pytest.mark.parametrize(
    "text", ["", "some", "tail", "tail:", "tail:0", "tail:x", "tail:-1", "tail:9999T", "tail:2M", "all:3"]
)
def test_what_cannot_be_kept(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keep(text)


@pytest.mark.parametrize("pattern", ["*.log", "out/**/energy.dat", "a b", "..x", "ä?", "out-{task:04}-{}.npy"])
def test_patterns(pattern: str) -> None:
    assert parse_capture(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["", "/etc/passwd", "../x", "a/../../x", "a\0", "a\nb", "\udcff", "x" * 1001, "{tasks}", "{"]
)
def test_patterns_that_lead_elsewhere(pattern: str) -> None:
    with pytest.raises(UsageError):
        parse_capture(pattern)
