"""The queue in Postgres keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mpifarm.queue.dsn import Dsn
from tests.queue.contract import QueueContract
from tests.queue.worlds import PostgresWorld

pytestmark = pytest.mark.postgres


@pytest.fixture
def world(pg_dsn: Dsn) -> Iterator[PostgresWorld]:
    world = PostgresWorld(pg_dsn)
    yield world
    world.close()


class TestPostgresQueue(QueueContract):
    pass
