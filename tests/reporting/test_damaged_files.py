"""Commands that meet a damaged run file: a sentence that names it and what to type, in time, and no word too much of
what is sound. The commands are processes, as users start them: HDF5 may never come back from such a file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from mpifarm.errors import OutputError
from mpifarm.runfile.reader import open_run
from mpifarm.startup.limited import NeverBack, in_child, reading, watched
from mpifarm.startup.own_process import own_command
from tests.reporting.test_export import Typed, job, runs, typed  # noqa: F401 - fixtures
from tests.reporting.test_whole import PlayedRun
from tests.runfile.damage import TASKS, make
from tests.runfile.gather import append_seeded, new_writer

DEADLINE_S = 60.0
"""Of a loaded machine; of processor time they may use a few seconds."""


def command(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code, and all that it said."""
    environ = {name: value for name, value in os.environ.items() if name != "MPIFARM_DEBUG"}
    done = subprocess.run(
        own_command(*words), cwd=folder, env=environ, capture_output=True, timeout=DEADLINE_S, check=False
    )
    out, err = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err and "bug of mpifarm" not in err, err
    return done.returncode, out + err


def endless(path: Path) -> None:
    """Spoil the file so that HDF5 stays in it for ever: the heap in which its attributes are, behind its head."""
    whole = path.read_bytes()
    at = whole.find(b"GCOL") + 136
    path.write_bytes(whole[:at] + bytes(4096) + whole[at + 4096 :])


@pytest.mark.slow
def test_a_file_from_which_hdf5_does_not_come_back(tmp_path: Path) -> None:
    make(tmp_path / "run.h5", finished=True)
    endless(tmp_path / "run.h5")
    for words in (("verify", "run.h5"), ("report", "run.h5"), ("tasks", "run.h5")):
        code, said = command(tmp_path, *words)
        assert code == 5 and "does not come back" in said and "mpifarm repair run.h5" in said, said
    code, said = command(tmp_path, "repair", "run.h5")
    assert (
        code == 0 and f"run.repaired.h5: {TASKS} attempts" in said and "lost: what the run wrote about itself" in said
    )
    assert command(tmp_path, "verify", "run.repaired.h5", "-q")[0] == 0


@pytest.mark.postgres
def test_what_other_files_hold_is_still_reported(
    typed: Typed,  # noqa: F811
    job: str,  # noqa: F811
    runs: list[PlayedRun],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Kind: one of several files never ends. Whole outputs, searched, extracted, proved."""
    expected = typed("report", job, "--grep", ".")
    for run in runs:
        run.close()
    endless(tmp_path / "run-2.h5")  # tasks 13 to 20
    for words, code in (("report", "--grep", "."), 5), (("report", "--extract", "out"), 5), (("verify", "-q"), 6):
        found, said = command(tmp_path, words[0], job, *words[1:])
        assert found == code and "run-2.h5" in said and "mpifarm repair" in said, said
        if "--grep" in words:
            lines = expected.out.decode(errors="backslashreplace").splitlines()
            rest = [line for line in lines if not 13 <= int(line.split(":")[0]) <= 20]
            assert len(rest) < len(lines) and [line for line in said.splitlines() if line in lines] == rest
    assert len(list((tmp_path / "out").glob("*.out"))) == 22


def emptied(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["attempts"].resize((0,))


def zeroed(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["attempts"][...] = 0


def shortened(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["attempts"].resize((3,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "known"),
    [(emptied, True), (zeroed, True), (shortened, True), (zeroed, False)],
    ids=["emptied", "zeroed", "shortened", "zeroed, of an older mpifarm"],
)
def test_rows_that_are_gone_are_told(tmp_path: Path, harm: Callable[[Path], None], known: bool) -> None:
    """Kind: nothing that is left of the file is wrong. It knows how many rows it had; none at all is suspicious in an
    older file, too."""
    path = tmp_path / "run.h5"
    writer = new_writer(path)
    append_seeded(writer, 1, 20)
    writer.close()
    if not known:
        with h5py.File(path, "r+") as file:
            del file.attrs["rows_at_end"]
    harm(path)
    for words in (("verify", "run.h5"), ("repair", "run.h5"), ("verify", "run.repaired.h5")):
        assert command(tmp_path, *words)[0] == 6, words


@pytest.mark.postgres
@pytest.mark.parametrize("harm", [emptied, zeroed, shortened])
def test_rows_that_are_gone_are_told_of_a_job(
    typed: Typed,  # noqa: F811
    job: str,  # noqa: F811
    runs: list[PlayedRun],  # noqa: F811
    tmp_path: Path,
    harm: Callable[[Path], None],
) -> None:
    for run in runs:
        run.close()
    harm(tmp_path / "run-2.h5")
    said = typed("verify", job)
    assert said.code == 6 and "run-2.h5" in said.out.decode(), said
    said = typed("report", f"{job}.20")
    assert said.code == 5 and "mpifarm repair" in said.err, said


def test_a_call_that_never_ends_is_ended(capfd: pytest.CaptureFixture[str]) -> None:
    """Kind: C code that loops with Python's lock in its hands, or dies; what waits is left alone."""

    def loops() -> int:
        with reading("some file.h5"):
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGALRM, signal.SIGINT))
            while True:
                pass

    def dies() -> int:
        with reading("other.h5"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    start = time.process_time()
    assert watched(loops) == OutputError.exit_code
    assert "cannot read run file some file.h5" in (said := capfd.readouterr().err) and "repair 'some file.h5'" in said
    assert watched(dies) == OutputError.exit_code
    assert "other.h5" in capfd.readouterr().err
    assert watched(lambda: 7) == 7
    assert time.process_time() - start < 1.0, "the one that watches does not work"


def test_what_a_child_found_before_it_ended() -> None:
    def finds() -> object:
        yield 1
        yield {"two": [2]}
        os.kill(os.getpid(), signal.SIGSEGV)

    found: list[object] = []
    with pytest.raises(NeverBack, match="crashes"):
        found.extend(in_child(finds))  # type: ignore[arg-type]
    assert found == [1, {"two": [2]}]


def test_the_next_reader_says_what_to_type(tmp_path: Path) -> None:
    """Kind: HDF5 refuses the file, for whatever reason; a repair may bring it all back."""
    make(tmp_path / "run.h5", finished=True)
    whole = (tmp_path / "run.h5").read_bytes()
    for number, bad in enumerate((whole[:300_000], bytes(100) + whole[100:], whole[:700] + bytes(99) + whole[799:])):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(bad)
        with pytest.raises(OutputError, match=f"mpifarm repair {path}"):
            open_run(path).close()
