"""What does a task cost rank 0 and the recorder, on a machine of any size, and does it keep its slots busy?

    python -m benchmarks.dispatch                                            the whole table, a JSON line each
    python -m benchmarks.dispatch --nodes 4096 --slots 64 --task-seconds 60  one machine, one JSON line
    python -m benchmarks.dispatch --send                                     messages really sent, 2 to 64 ranks

The machine is pretended (`benchmarks.pretended`: the project's own dispatcher, leaders and recorder, every message
really encoded and decoded), the microseconds are processor time of this one. `ideal` is what a list schedule that
knows everything at once makes of the same tasks: utilisation over the whole of it. `utilisation_busy` is ours until
the ideal starts its last task, while it holds every slot. Python's collector is off: it would walk the whole machine.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import platform
import random
from collections.abc import Sequence

from benchmarks.figures import commit, machine, now
from benchmarks.pretended import Room
from benchmarks.sending import send_table

TABLE_NODES, TABLE_SLOTS = (64, 256, 1024, 4096), (4, 16, 64, 128)
TASKS_MIN = 20_000


def enough(slots: int, seconds: float) -> int:
    """Tasks to fill so many slots for a while: 1.75 each, more of short ones."""
    return max(TASKS_MIN, int(slots * min(max(1.75, 15.0 / seconds), 15.0)))


def steady(tasks: int, seconds: float) -> list[float]:
    chance = random.Random(1)
    return [chance.uniform(0.5, 1.5) * seconds for _ in range(tasks)]


def chemistry(tasks: int) -> list[float]:
    """Lognormal around ten minutes."""
    chance = random.Random(2)
    return [min(chance.lognormvariate(6.4, 0.8), 7200.0) for _ in range(tasks)]


def docking(tasks: int) -> list[float]:
    """Heavy-tailed: most take seconds, one in a hundred more than two minutes."""
    chance = random.Random(3)
    return [min(2.0 * chance.paretovariate(1.1), 1800.0) for _ in range(tasks)]


def list_schedule(durations: Sequence[float], slots: int) -> tuple[float, float]:
    """(when the last task starts, when the last one ends) if each goes at once to the slot that is free first."""
    ends = [0.0] * min(slots, len(durations))
    last_start = 0.0
    for seconds in durations:
        last_start = ends[0]
        heapq.heapreplace(ends, last_start + seconds)
    return last_start, max(ends)


def simulate(trace: str, nodes: int, slots: int, durations: list[float], silent: float) -> dict[str, object]:
    """The figures of one machine."""
    gc.collect()
    gc.disable()
    room = Room(nodes, slots, durations, silent)
    room.run()
    gc.enable()
    tasks, all_slots = len(durations), nodes * slots
    busy_until, ideal_end = list_schedule(durations, all_slots)
    first = min(start for start, _ in room.held)
    end = max(end for _, end in room.held)
    held_s = sum(end - start for start, end in room.held)
    early_s = sum(min(end, busy_until) - start for start, end in room.held if start < busy_until)
    per_task = 1e6 / tasks
    return {
        "trace": trace,
        "nodes": nodes,
        "slots": slots,
        "tasks": tasks,
        "task_seconds": round(sum(durations) / tasks, 3),
        "silent_nodes": round(silent * nodes),
        "dispatcher_us_per_task": round(per_task * room.rank0.spent_s, 2),
        "recorder_us_per_task": round(per_task * room.recorder.spent_s, 2),
        "us_by_part": room.parts(),
        "messages_per_task": round(room.messages / tasks, 3),
        "bytes_per_task": round(room.bytes / tasks, 1),
        "rank0_load": round(room.rank0.spent_s / end, 5),
        "rank0_load_busiest_second": round(max(room.rank0.by_second.values()), 4),
        "utilisation": round(held_s / (all_slots * end), 4),
        "ideal": round(sum(durations) / (all_slots * ideal_end), 4),
        "utilisation_busy": round(early_s / (all_slots * busy_until), 4) if busy_until else None,
        "first_task_s": round(first, 4),
        "tail_s": round(end - busy_until, 2),
        "ideal_tail_s": round(ideal_end - busy_until, 2),
    }


def emit(line: dict[str, object]) -> None:
    about = {"machine": machine(), "commit": commit(), "date": now(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "dispatch", **line, **about}), flush=True)


def one(nodes: int, slots: int, seconds: float, tasks: int | None, silent: float) -> None:
    durations = steady(tasks or enough(nodes * slots, seconds), seconds)
    emit({**simulate("steady", nodes, slots, durations, silent), "simulated": True})


def table() -> None:
    for slots in TABLE_SLOTS:
        for nodes in TABLE_NODES:
            one(nodes, slots, 1.0 if slots == 4 else 60.0, None, 0.0)
    for slots, seconds in (4, 1.0), (64, 60.0):
        one(4096, slots, seconds, None, 0.01)
    for trace, nodes, slots, durations in (
        ("28,000 chemistry tasks", 802, 4, chemistry(28_000)),
        ("heavy-tailed docking", 1024, 32, docking(300_000)),
        ("1M x 1 s", 1024, 16, steady(1_000_000, 1.0)),
    ):
        emit({**simulate(trace, nodes, slots, durations, 0.0), "simulated": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--slots", type=int, default=64, help="of a node")
    parser.add_argument("--task-seconds", type=float, default=60.0, help="on average")
    parser.add_argument("--tasks", type=int, help=f"else {TASKS_MIN:,}, or enough for every slot")
    parser.add_argument("--silent", type=float, default=0.0, help="share of the nodes that falls silent")
    parser.add_argument("--send", action="store_true", help="messages really sent under mpiexec")
    options = parser.parse_args()
    if options.send:
        for line in send_table():
            emit(line)
    elif options.nodes:
        one(options.nodes, options.slots, options.task_seconds, options.tasks, options.silent)
    else:
        table()


if __name__ == "__main__":
    main()
