"""Job lists as people have them, of more than 22 kinds: each is obeyed or refused with a sentence."""

from __future__ import annotations

import io
from typing import NamedTuple

import pytest

from mpifarm.core.needs import Needs
from mpifarm.errors import TaskFileError, UsageError
from mpifarm.intake.expand import Expansion, expand_arguments
from mpifarm.intake.taskfile import read_tasks


class Obeyed(NamedTuple):
    """What is queued, and what is told."""

    commands: list[bytes]
    told: tuple[str, ...] = ()


class Refused(NamedTuple):
    """Where, and with what in the sentence."""

    line: int
    column: int
    reason: str


KINDS: dict[str, tuple[bytes, Obeyed | Refused]] = {
    "plain": (b"./a 1\n./a 2\n", Obeyed([b"./a 1", b"./a 2"])),
    "GNU parallel, whole commands": (
        b"gzip -dc a.gz | wc -c > a.n\ngzip -dc b.gz | wc -c > b.n\n",
        Obeyed([b"gzip -dc a.gz | wc -c > a.n", b"gzip -dc b.gz | wc -c > b.n"]),
    ),
    "dSQ": (
        b'module load R/4.3; Rscript fit.R --tag "two words"\nmodule load R/4.3; Rscript fit.R --tag "it\'s"\n',
        Obeyed(
            [
                b'module load R/4.3; Rscript fit.R --tag "two words"',
                b'module load R/4.3; Rscript fit.R --tag "it\'s"',
            ]
        ),
    ),
    "disBatch barrier": (b"./step one\n#DISBATCH BARRIER CHECK\nrm -rf x\n", Refused(2, 1, "write #MPIFARM BARRIER")),
    "disBatch prefix": (
        b"#DISBATCH PREFIX ( cd work &&\n./a\n",
        Refused(1, 1, "disBatch, which mpifarm does not obey"),
    ),
    "disBatch repeat": (
        b"#DISBATCH REPEAT 5 start 10 step 2 ./rep\n",
        Refused(1, 1, "--array 10-18:2 -- 'COMMAND {}'"),
    ),
    "GREASY lines": (
        b"# prepare\n\n./mesh a\n./mesh b\n[# 1-2 #] ./merge\n",
        Obeyed(
            [b"./mesh a", b"./mesh b", b"./merge"],
            (
                "warning: x:5: [# 1-2 #] waits for tasks 1-2 (lines 3-4); GREASY counts lines, and lines 1-2 would be no task",  # noqa: E501
            ),
        ),
    ),
    "GREASY without comments": (b"./a\n./b\n[# 1 #] ./c\n[# -1 #] ./d\n", Obeyed([b"./a", b"./b", b"./c", b"./d"])),
    "GREASY directory": (b"./a\n[@ results @] ls\n", Refused(2, 1, "write cd directory && before the command")),
    "GREASY directory before": (b"./a\n [@ d @][# -1 #] wc -l list\n", Refused(2, 2, "GREASY's")),
    "GREASY directory behind": (b"./a\n[# -1 #] [@ d @] wc -l list\n", Refused(2, 10, "GREASY's")),
    "Launcher": (
        b"./m case1 >> out-$LAUNCHER_TSK_ID.txt\n./m case2 >> out-$LAUNCHER_TSK_ID.txt\n",
        Obeyed(
            [b"./m case1 >> out-$LAUNCHER_TSK_ID.txt", b"./m case2 >> out-$LAUNCHER_TSK_ID.txt"],
            ("warning: x:1: nothing sets LAUNCHER_TSK_ID here: the number of a task is in MPIFARM_TASK",),
        ),
    ),
    "PyLauncher": (b"4,./four-cores a\n1,./one-core b\n", Refused(1, 1, "write #MPIFARM --cpus N in a line before")),
    "METAQ script": (b"#!/bin/bash\n#METAQ NODES 2\nsrun ./prop\n", Refused(1, 1, "mpifarm submit -- bash ./x")),
    "METAQ lines": (b"./a\n#METAQ NODES 2\n./b\n", Refused(2, 1, "a directive of METAQ")),
    "HyperQueue script": (
        b"#!/usr/bin/env python3\n#HQ --array 1-9\nimport os\n",
        Refused(1, 1, "--array 1-9 -- python3 ./x"),
    ),
    "HyperQueue lines": (b"#HQ --cpus 4\n./a\n", Refused(1, 1, "for #MPIFARM there are --cpus, --time-limit")),
    "HyperShell": (b"./sim 1\n./sim 2  #HYPERSHELL: cores:4\n", Refused(2, 10, "#MPIFARM --cpus 4 --time-limit 10m")),
    "Slurm array script": (
        b"#!/bin/bash\n#SBATCH --array=1-100\ncd data\n./a $SLURM_ARRAY_TASK_ID\n",
        Refused(1, 1, "mpifarm submit --array 1-100 -- bash ./x (its number is in MPIFARM_ENTRY)"),
    ),
    "Slurm script without a shebang": (b"#SBATCH -n 4\ncd data\nrm -rf *\n", Refused(1, 1, "#SBATCH begins a script")),
    "PBS script": (b"\n#PBS -l walltime=1:00:00\n./a\n", Refused(2, 1, "mpifarm submit -- bash ./x")),
    "LSF script": (b"cd a\n#BSUB -n 4\n", Refused(2, 1, "#BSUB begins a script")),
    "Grid Engine script": (b"cd a\n#$ -cwd\n", Refused(2, 1, "#$ begins a script")),
    "Cobalt script": (b"#COBALT -t 30\n./a\n", Refused(1, 1, "#COBALT begins a script")),
    "Flux script": (b"# flux: -N4\n./a\n", Refused(1, 1, "begins a script")),
    "qdo": (b"./run --night 20260101 --tile 17\n", Obeyed([b"./run --night 20260101 --tile 17"])),
    "makefile": (b"all: a.o b.o\n\tcc -o all a.o b.o\n", Refused(1, 1, "a makefile")),
    "CSV": (b'name,alpha,files\n"x, y",0.5,a.fits\n', Refused(1, 1, "the header of a table")),
    "JSON lines": (b'{"a": 1}\n{"a": 2}\n', Refused(1, 1, "--from-json")),
    "heredoc": (b"python3 - <<'END'\nprint(1)\nEND\n", Refused(1, 11, "a here-document cannot go on in the next line")),
    "heredoc with a dash": (b"./a\ncat > cfg <<-EOF\n\tkey = 1\n\tEOF\n", Refused(2, 11, "write the text to a file")),
    "here-string": (b"wc -c <<< hello\n./a $((1 << 3))\n", Obeyed([b"wc -c <<< hello", b"./a $((1 << 3))"])),
    "open list": (b"cd sub &&\ntouch here\n", Refused(1, 8, "is not complete")),
    "open pipe": (b"a\nls | \nwc\n", Refused(2, 4, "is not complete")),
    "open alternative": (b"test -f x ||\nexit 1\n", Refused(1, 11, "is not complete")),
    "open group": (b"(cd x\nls)\n", Refused(1, 1, "is not complete")),
    "open braces": (b"{ a\nb; }\n", Refused(1, 1, "is not complete")),
    "open loop": (b"while read x; do\necho $x\ndone < list\n", Refused(1, 1, "is not complete")),
    "open for": (b"for i in 1 2\ndo echo $i; done\n", Refused(1, 1, "is not complete")),
    "open if in the middle": (b"true; if a; then\nb; fi\n", Refused(1, 7, "is not complete")),
    "open case": (b"case $x in\na) ls;;\nesac\n", Refused(1, 1, "is not complete")),
    "open substitution": (b"echo $(ls\n)\n", Refused(1, 7, "is not complete")),
    "two that complete each other": (b"[# 2 #] { a\nb; }\n", Refused(1, 9, "is not complete")),
    "whole constructs": (
        b"for i in 1 2; do echo $i; done\n(cd x && ls)\nif a; then b; fi # (\necho if\n{ a; }\n! a\ncase x in x) a;; esac\n",  # noqa: E501
        Obeyed(
            [
                b"for i in 1 2; do echo $i; done",
                b"(cd x && ls)",
                b"if a; then b; fi # (",
                b"echo if",
                b"{ a; }",
                b"! a",
                b"case x in x) a;; esac",
            ]
        ),
    ),
    "background": (b"(sleep 3; echo r > out) > log 2>&1 &\n./b\n", Refused(1, 36, "is killed: leave out the &")),
    "background, blanks after": (b"./b\n./a & \n", Refused(2, 5, "is killed")),
    "background in a group": (b"(./a &)\n", Refused(1, 6, "is killed")),
    "background, disowned": (b"nohup ./a & disown\n", Refused(1, 11, "is killed")),
    "background, waited for": (
        b"sleep 1 & sleep 1 & wait\necho a \\&\necho '&'\nls 2>&1\n./a # b &\n",
        Obeyed([b"sleep 1 & sleep 1 & wait", b"echo a \\&", b"echo '&'", b"ls 2>&1", b"./a # b &"]),
    ),
    "Windows": (b"./a 1\r\n\r\n./a 2\r\n", Obeyed([b"./a 1", b"./a 2"])),
    "byte order mark": (b"\xef\xbb\xbf./a 1\n./a 2", Obeyed([b"./a 1", b"./a 2"])),
    "UTF-16": (b"\xff\xfe.\0/\0a\0\n\0", Refused(1, 4, "NUL byte")),
    "tabs": (b"\t./a\t1\n\t\n", Obeyed([b"\t./a\t1"])),
    "continuation": (b"./a 1 \\\n  --x\n", Refused(1, 7, "a backslash cannot continue")),
    "quotes over lines": (b"echo 'a\nb'\n", Refused(1, 6, "single quote")),
    "#MPIFARM:": (b"#MPIFARM: --cpus 2\na\n", Refused(1, 1, "did you mean #MPIFARM?")),
    "#mpifarm": (b"a\n#mpifarm --cpus 2\n", Refused(2, 1, "did you mean #MPIFARM?")),
    "#MPIFARN": (b"a\n  #MPIFARN BARRIER\n", Refused(2, 3, "did you mean #MPIFARM?")),
    "##MPIFARM": (b"a\n##MPIFARM BARRIER\n", Refused(2, 1, "did you mean #MPIFARM?")),
    "#MPI_FARM": (b"a\n#MPI_FARM BARRIER\n", Refused(2, 1, "did you mean #MPIFARM?")),
    "#MPIFRAM": (b"a\n#MPIFRAM BARRIER\n", Refused(2, 1, "did you mean #MPIFARM?")),
    "comments": (
        b"# HQ is a queue\n#mpirun -n 4 ./a\n# SBATCH no\n#flux of photons\n#$x\n# (\n# while true; do\n#a &\n./a\n",
        Obeyed([b"./a"]),
    ),
}


def read(content: bytes, told: list[str]) -> list[bytes]:
    return [
        task if isinstance(task, bytes) else task.body
        for part in read_tasks(io.BytesIO(content), "x", Needs(), told.append)
        for task in part.tasks
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_obeyed_or_refused(kind: str) -> None:
    content, wanted = KINDS[kind]
    told: list[str] = []
    if isinstance(wanted, Obeyed):
        assert read(content, told) == wanted.commands
        assert tuple(told) == wanted.told
        return
    with pytest.raises(TaskFileError) as caught:
        read(content, told)
    assert wanted.reason in str(caught.value)
    assert (caught.value.line, caught.value.column + 1) == (wanted.line, wanted.column)


@pytest.mark.parametrize("kind", [kind for kind, (_, wanted) in KINDS.items() if isinstance(wanted, Refused)])
def test_a_bad_line_is_found_far_down_too(kind: str) -> None:
    """Beyond the first buffer, among lines that bash has to look at."""
    content, wanted = KINDS[kind]
    if "like" in wanted.reason or kind in ("PyLauncher", "makefile", "CSV", "JSON lines"):
        return
    before = b"./plain command\n" * 30_000 + b"".join(b"(cd %d && ls $(x)) | {\n"[:-4] + b"\n" for _ in range(3))
    with pytest.raises(TaskFileError) as caught:
        read(before.replace(b"%d", b"1") + content, [])
    assert caught.value.line == before.count(b"\n") + wanted.line  # type: ignore[union-attr]


def test_variables_of_other_runners_are_told_once_and_only_where_nothing_sets_them() -> None:
    for line in (b"./a $SLURM_ARRAY_TASK_ID", b"./a ${HQ_TASK_ID}", b"a; ./a $PBS_ARRAY_INDEX"):
        told: list[str] = []
        read(b"./x\n" + line + b"\n" + line + b"\n", told)
        assert len(told) == 1
        assert told[0].startswith("warning: x:2: nothing sets ")
    for line in (b"HQ_TASK_ID=3; ./a $HQ_TASK_ID", b"./a ${TASK_ID:-1}", b"#a $TASK_ID", b"./a $TASK_IDS"):
        told = []
        read(b"./x\n" + line + b"\n", told)
        assert told == []


@pytest.mark.parametrize("command", ["cd sub &&", "cat <<END", "./a {} &", "while read x; do", "(./a"])
def test_shell_lines_after_the_dashes_are_judged_too(command: str) -> None:
    for asked in (Expansion([command], array="1-3"), Expansion(["true", ":::", "1"])):
        if asked.array is None:
            asked = Expansion([":::", command.replace("{}", "x")])
        with pytest.raises(UsageError):
            list(expand_arguments(asked, Needs(), io.BytesIO()))
    told: list[str] = []
    asked = Expansion(["./a $SLURM_ARRAY_TASK_ID"], array="1-3")
    list(expand_arguments(asked, Needs(), io.BytesIO(), told.append))
    assert told[0].startswith("warning: nothing sets SLURM_ARRAY_TASK_ID here")
    list(
        expand_arguments(Expansion([":::", "a", "./b $HQ_TASK_ID", "$HQ_TASK_ID"]), Needs(), io.BytesIO(), told.append)
    )
    assert [said.partition(" here")[0] for said in told[2:]] == ["warning: combination:2: nothing sets HQ_TASK_ID"]
