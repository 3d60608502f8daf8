"""What can be said of one task: `--cpus 4` of submit and `#MPIFARM`, `"cpus": 4` of JSON records, `Command(cpus=4)`.

Every option has one name here and the spellings of HyperQueue, Slurm, Balsam, RADICAL that mean the same; one more is
one line of OPTIONS (and of `api.queue.Command`). Every refusal is a UsageError that says what can be written. Opens no
file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import reduce
from typing import NamedTuple

from mpifarm.core.needs import MILLIS, NODE, Needs, share_of_node
from mpifarm.errors import UsageError
from mpifarm.units import exact_bytes, parse_bytes, parse_count, parse_duration

CPUS_MAX = 65_535
GPUS_MAX = 1024
AMOUNT_MAX = 1_000_000
PACKED_MAX = 1000
MEMORY_BYTES_MIN, MEMORY_BYTES_MAX = 1 << 20, 1 << 60
NONE = "none"
"""As a category: none said."""

_AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3}0*)?|\.[0-9]{1,3}0*")
_NAME = re.compile(r"[A-Za-z][\w./-]{0,63}", re.ASCII)
_CATEGORY = re.compile(r"[^\s=]\S{0,99}")
_GRES = re.compile(r"([A-Za-z]\w*)(?::[A-Za-z][\w.-]*)?(?:[:=]([0-9]+))?", re.ASCII)


class TaskOption(NamedTuple):
    """One way to say what a task needs."""

    flag: str
    metavar: str
    help: str
    put: Callable[[Needs, str], Needs]
    """The needs with what the text says in place of what was said before. Raises UsageError."""
    write: Callable[[Needs], list[str]]
    """The values that say it again."""
    repeats: bool = False

    @property
    def key(self) -> str:
        """Its name in JSON and Python."""
        return self.flag[2:].replace("-", "_")

    def put_value(self, needs: Needs, value: object) -> Needs:
        """The needs with a value of JSON: a number is read as its digits are. Raises UsageError."""
        if self.repeats and isinstance(value, dict):
            value = [f"{name}={amount}" for name, amount in value.items()]
        if self.repeats and isinstance(value, list):
            return reduce(self.put, map(str, value), needs)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UsageError(f"{json.dumps(value)[:60]} is not a value for it")
        return self.put(needs, repr(value).removesuffix(".0") if isinstance(value, float) else str(value))


def _read_cpus(needs: Needs, text: str) -> Needs:
    return needs._replace(cpus=parse_count(text, "--cpus", highest=CPUS_MAX))


def _read_memory(needs: Needs, text: str) -> Needs:
    size = parse_bytes(text)
    if size and not MEMORY_BYTES_MIN <= size <= MEMORY_BYTES_MAX:
        raise UsageError(f"--mem: {text!r} is {size:,} bytes: write 4G or 500M, at least 1M")
    return needs._replace(memory_bytes=size)


def _read_gpus(needs: Needs, text: str) -> Needs:
    millis = thousandths(text, "--gpus", "a number of GPUs such as 1 or 2, or a share of one such as 0.25", GPUS_MAX)
    if millis > MILLIS and millis % MILLIS:
        raise UsageError(f"--gpus: {text!r} is neither whole nor a share of one GPU such as 0.25")
    return needs._replace(gpu_millis=millis)


def _read_resource(needs: Needs, text: str) -> Needs:
    name, equals, amount = (word.strip() for word in text.partition("="))
    if name == "gpu" or name.startswith("gpus"):  # HyperQueue's gpus/nvidia
        return _read_gpus(needs, amount)
    if name in ("mem", "memory"):
        return _read_memory(needs, amount)
    if name in ("cpus", "cores"):
        return _read_cpus(needs, amount)
    if not equals:
        raise UsageError(f"--resource: {text[:40]!r} is not NAME=AMOUNT, such as licence=1")
    if name == NODE:
        raise UsageError("--resource: shares of a node are said by --node-packing-count")
    return _with_resource(needs, *parse_resource(text))


def parse_resource(text: str) -> tuple[str, int]:
    """NAME=AMOUNT as name and thousandths. Raises UsageError."""
    name, _, amount = (word.strip() for word in text.partition("="))
    if not _NAME.fullmatch(name) or name == NODE:
        raise UsageError(f"--resource: {name[:40]!r} cannot be the name of a resource: letters, digits and _./-")
    return name, thousandths(amount, "--resource", "an amount such as 1 or 0.5", AMOUNT_MAX)


def thousandths(text: str, what: str, forms: str, most: int) -> int:
    """A decimal number of at most three places."""
    plain = text.strip()
    number = Decimal(plain) if _AMOUNT.fullmatch(plain) else Decimal(-1)
    if not 0 <= number <= most:
        raise UsageError(f"{what}: {text[:40]!r} is not {forms} (at most {most:,}, of three places)")
    return int(number * MILLIS)


def _with_resource(needs: Needs, name: str, amount: int) -> Needs:
    others = dict(needs.resources)
    others.pop(name, None)
    if amount:
        others[name] = amount
    return needs._replace(resources=tuple(sorted(others.items())))


def _read_packing(needs: Needs, text: str) -> Needs:
    count = parse_count(text, "--node-packing-count", lowest=0, highest=PACKED_MAX)
    return _with_resource(needs, NODE, share_of_node(count) if count else 0)


def _read_category(needs: Needs, text: str) -> Needs:
    if not _CATEGORY.fullmatch(text) or not text.isprintable():
        raise UsageError(f"--category: {text[:40]!r} is not a name of at most 100 characters without blanks")
    return needs._replace(category="" if text == NONE else text)


def _read_gres(needs: Needs, text: str) -> Needs:
    """Slurm's gpu:2, gpu:a100:2, licence:1."""
    found = _GRES.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--gres: {text[:40]!r} is not such as gpu:2: write --gpus 2, or --resource NAME=AMOUNT")
    return _read_resource(needs, f"{found[1]}={found[2] or 1}")


def _one_only(what: str) -> Callable[[Needs, str], Needs]:
    def read(needs: Needs, text: str) -> Needs:
        if text.strip() != "1":
            raise UsageError(f"{what} {text[:20]}: a task is one process on one node: --cpus N gives it more cores")
        return needs

    return read


def seconds_said(seconds: float) -> str:
    """As `--time-limit` has it."""
    plain = repr(seconds)
    return f"{seconds:.9f}s" if "e" in plain else f"{plain}s"


def _amount(millis: int) -> str:
    return f"{Decimal(millis) / MILLIS:f}"


def _resources(needs: Needs) -> list[str]:
    return [f"{name}={_amount(amount)}" for name, amount in needs.resources if name != NODE]


OPTIONS = (
    TaskOption("--cpus", "N", "Cores per task; else 1.", _read_cpus, lambda needs: [str(needs.cpus)]),
    TaskOption(
        "--mem", "SIZE", "Memory per task: 4G, 500M.", _read_memory, lambda needs: [exact_bytes(needs.memory_bytes)]
    ),
    TaskOption(
        "--gpus", "N", "GPUs per task, or a share: 2, 0.25.", _read_gpus, lambda needs: [_amount(needs.gpu_millis)]
    ),
    TaskOption(
        "--resource",
        "NAME=AMOUNT",
        "What else of a node each task takes: see run --resource; may be repeated.",
        _read_resource,
        _resources,
        repeats=True,
    ),
    TaskOption(
        "--node-packing-count",
        "K",
        "Each task takes 1/K of a node, its cores too.",
        _read_packing,
        lambda needs: [str(packing_count(needs))],
    ),
    TaskOption(
        "--time-limit",
        "DUR",
        "Per task: 90s, 10m.",
        lambda needs, text: needs._replace(time_limit_s=parse_duration(text)),
        lambda needs: [seconds_said(needs.time_limit_s)],
    ),
    TaskOption(
        "--time-request",
        "DUR",
        "A task begins only if so much is left of the allocation; else its time limit.",
        lambda needs, text: needs._replace(time_request_s=parse_duration(text)),
        lambda needs: [seconds_said(needs.time_request_s)],
    ),
    TaskOption(
        "--category",
        "NAME",
        "Tasks that need alike; else told by their program.",
        _read_category,
        lambda needs: [needs.category or NONE],
    ),
)

BY_FLAG = {option.flag: option for option in OPTIONS}
BY_KEY = {option.key: option for option in OPTIONS}

PER_JOB = (
    "--name", "--job", "--hold", "--priority", "--tag", "--dedupe", "--once", "--retries", "--retry-on",
    "--crash-limit", "--max-fails", "--keep", "--capture", "--after", "--afterany",
)  # fmt: skip
"""What is said once for all tasks of a submit."""

SPELLINGS: Mapping[str, Callable[[Needs, str], Needs]] = {
    **dict.fromkeys(("-c", "--cpus-per-task", "--cores", "--cores-per-rank", "--threads-per-rank"), _read_cpus),
    **dict.fromkeys(("--memory", "--mem-per-task", "--mem-per-rank"), _read_memory),
    **dict.fromkeys(("--gpus-per-task", "--gpus-per-rank"), _read_gpus),
    **dict.fromkeys(("-t", "--time", "--walltime"), BY_FLAG["--time-limit"].put),
    "--wall-time-min": lambda needs, text: needs._replace(time_limit_s=60.0 * parse_count(text, "--wall-time-min")),
    "--gres": _read_gres,
    **{name: _one_only(name) for name in ("--nodes", "-N", "--ranks", "-n", "--ntasks", "--ranks-per-node")},
}
"""What people type from HyperQueue, Slurm, Balsam and RADICAL, and is understood."""


def reader(option: str) -> Callable[[Needs, str], Needs] | None:
    """What reads the value of an option as it is typed; None: it says nothing of needs."""
    known = BY_FLAG.get(option)
    return known.put if known is not None else SPELLINGS.get(option)


def packing_count(needs: Needs) -> int:
    """K, of a task that takes 1/K of a node; 0: it takes no share."""
    share = dict(needs.resources).get(NODE, 0)
    return share_of_node(share) if share else 0


def said(needs: Needs, before: Needs) -> list[str]:
    """The options that make `needs` of `before`."""
    words: list[str] = []
    for option in OPTIONS:
        now, then = option.write(needs), option.write(before)
        if option.repeats:
            kept = {value.partition("=")[0] for value in now}
            now = [value for value in now if value not in then]
            now += [f"{name}=0" for name, _, _ in (value.partition("=") for value in then) if name not in kept]
        elif now == then:
            now = []
        for value in now:
            words += [option.flag, value]
    return words


def flags() -> str:
    """--cpus, --mem..., for a sentence."""
    names = [option.flag for option in OPTIONS]
    return f"{', '.join(names[:-1])} and {names[-1]}"
