"""`mpifarm run` on a queue whose jobs all have the policy in TEST_POLICY (JSON, as `Policy.to_json` makes it)."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

from mpifarm import run
from mpifarm.core.job import Policy

POLICY = Policy.from_json(json.loads(os.environ["TEST_POLICY"]))
_open_queue = run.Session._open_queue


def open_queue(session: run.Session) -> Any:
    queue, number = _open_queue(session)
    lease = queue.lease

    def lease_with_policy(*arguments: Any) -> Any:
        grant = lease(*arguments)
        return replace(grant, jobs=tuple(job._replace(policy=POLICY) for job in grant.jobs))

    queue.lease = lease_with_policy  # type: ignore[method-assign]
    return queue, number


if __name__ == "__main__":
    run.Session._open_queue = open_queue  # type: ignore[method-assign]
    sys.exit(run.main(sys.argv[1:]))
