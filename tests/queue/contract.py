"""What every queue promises. The classes run against both: see test_memory.py and test_postgres.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpifarm.core.job.policy import Policy
from mpifarm.core.model import FailureClass, JobId, Kind, Parent, Part, State, TaskText
from mpifarm.core.needs import Needs
from mpifarm.core.protocol.facts import Cancelled, Terms
from mpifarm.core.protocol.verbs import CancelTasks, DrainRun
from mpifarm.errors import QueueError
from mpifarm.queue import Batch, Return
from tests.queue.lifecycle import LifecycleContract
from tests.queue.worlds import HERE, LEASE_S, World, all_ended, ended, lease, like_tasks, one, span


class LeaseContract:
    def test_gives_the_tasks_in_order_and_no_task_twice(self, world: World) -> None:
        job = world.submit(like_tasks(10))
        run = world.queue.open_run(HERE)
        first, second = one(world.queue, run, 4), one(world.queue, run)
        assert (first.lo, first.hi, second.lo, second.hi) == (1, 5, 5, 11)
        assert first.tasks[0] == TaskText(b"echo 1") and second.tasks[-1] == TaskText(b"echo 10")
        assert first.lease != second.lease and (first.job, first.attempt) == (job, 1)
        assert not lease(world.queue, run).blocks
        assert world.counts(job) == {"running": 10}
        world.check()

    def test_tells_what_a_leader_must_know(self, world: World) -> None:
        world.submit([(Needs(3, time_limit_s=7.5), [TaskText(b"a b", b"entry"), TaskText(b"\xff\xfe")])], "molecules")
        grant = lease(world.queue, world.queue.open_run(HERE))
        (block,) = grant.blocks
        assert block.needs == Needs(3, time_limit_s=7.5)
        assert list(block.tasks) == [TaskText(b"a b", b"entry"), TaskText(b"\xff\xfe")]
        assert [(text.id, text.name, text.cwd) for text in grant.jobs] == [(block.job, "molecules", b"/tmp")]

    def test_several_shapes_make_several_leases(self, world: World) -> None:
        narrow, wide = like_tasks(3), like_tasks(2, Needs(4))
        world.submit(narrow + wide + narrow)
        run = world.queue.open_run(HERE)
        blocks = lease(world.queue, run, 7).blocks
        assert [(block.needs.cpus, block.lo, block.hi) for block in blocks] == [(1, 1, 4), (4, 4, 6), (1, 6, 8)]
        assert one(world.queue, run).lo == 8

    def test_neighbours_of_one_shape_are_one_range(self, world: World) -> None:
        world.submit(like_tasks(3) + like_tasks(3))
        assert one(world.queue, world.queue.open_run(HERE)).hi == 7

    def test_what_is_too_wide_stays(self, world: World) -> None:
        job = world.submit(like_tasks(5, Needs(8)) + like_tasks(5))
        run = world.queue.open_run(HERE)
        grant = lease(world.queue, run, room=Needs(4))
        assert [(block.lo, block.hi) for block in grant.blocks] == [(6, 11)]
        grant = lease(world.queue, run, room=Needs(4))
        assert (grant.ready_left, grant.too_wide) == (0, 5)
        assert world.counts(job) == {"pending": 5, "running": 5}

    @pytest.mark.parametrize(
        "more",
        [
            {"memory_bytes": 1},
            {"gpu_millis": 1001},
            {"nodes": 3},
            {"resources": (("disk", 6),)},
            {"resources": (("x", 1),)},
        ],
    )
    def test_what_a_node_lacks_stays(self, world: World, more: dict[str, int]) -> None:
        room = Needs(4, 0, 1000, (("disk", 5),), nodes=2)
        job = world.submit(like_tasks(5, Needs()._replace(**more)) + like_tasks(5, room))
        run = world.queue.open_run(HERE)
        (block,) = lease(world.queue, run, room=room).blocks
        assert (block.lo, block.hi, block.needs) == (6, 11, room)
        grant = lease(world.queue, run, room=room)
        assert (grant.ready_left, grant.too_wide, grant.too_long) == (0, 5, 0)
        assert world.counts(job) == {"pending": 5, "running": 5}

    def test_a_body_is_not_looked_into(self, world: World) -> None:
        texts = [TaskText(b"\0\xff\n", b"\0"), TaskText(b"")]
        world.submit_on(Terms("job"), Part(Needs(), texts, (), Kind.COMMAND))
        block = one(world.queue, world.queue.open_run(HERE))
        assert (block.kind, list(block.tasks)) == (Kind.COMMAND, texts)

    def test_bounds_the_bytes_but_gives_at_least_one(self, world: World) -> None:
        world.submit([(Needs(), [TaskText(b"x" * 1000)] * 20)])
        run = world.queue.open_run(HERE)
        assert len(lease(world.queue, run, bytes_max=5_000).blocks[0].tasks) == 5
        assert len(lease(world.queue, run, bytes_max=10).blocks[0].tasks) == 1

    def test_counts_what_is_left(self, world: World) -> None:
        world.submit(like_tasks(10))
        grant = lease(world.queue, world.queue.open_run(HERE), 3)
        assert (grant.ready_left, grant.too_wide, grant.silent) == (7, 0, 0)

    def test_higher_priority_first_then_older_job(self, world: World) -> None:
        low, high, also_low = (world.submit(like_tasks(2), name) for name in ("low", "high", "also-low"))
        world.set_priority(high, 5)
        run = world.queue.open_run(HERE)
        assert [block.job for block in lease(world.queue, run).blocks] == [high, low, also_low]

    def test_held_jobs_wait(self, world: World) -> None:
        job = world.submit(like_tasks(2))
        world.set_held(job, True)
        run = world.queue.open_run(HERE)
        grant = lease(world.queue, run)
        assert not grant.blocks and grant.ready_left == 0
        world.set_held(job, False)
        assert one(world.queue, run).hi == 3

    def test_nothing_for_a_run_that_has_ended(self, world: World) -> None:
        job = world.submit(like_tasks(2))
        run = world.queue.open_run(HERE)
        world.queue.close_run(run)
        with pytest.raises(QueueError, match="ended"):
            lease(world.queue, run)
        assert world.counts(job) == {"pending": 2}

    def test_silent_tells_of_runs_that_may_be_dying(self, world: World) -> None:
        world.submit(like_tasks(10))
        other, run = world.queue.open_run(HERE), world.queue.open_run(HERE)
        lease(world.queue, other, 10)
        assert lease(world.queue, run).silent == 0
        world.pass_time(20)
        assert lease(world.queue, run).silent == 10
        world.queue.renew(other)
        assert lease(world.queue, run).silent == 0


class RecordContract:
    def test_outcomes_are_counted(self, world: World) -> None:
        job = world.submit(like_tasks(6))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        states = [State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SUCCEEDED]
        outcomes = [ended(block, task, state) for task, state in enumerate(states, 1)]
        assert world.queue.record(run, Batch(outcomes)) == frozenset()
        assert world.counts(job) == {"succeeded": 2, "failed": 1, "cancelled": 1, "running": 2}
        world.check()
        assert not world.queue.record(run, Batch([ended(block, 5), ended(block, 6)], done=[block.lease]))
        assert world.counts(job) == {"succeeded": 4, "failed": 1, "cancelled": 1}
        world.check()

    def test_a_lease_that_is_gone_records_nothing(self, world: World) -> None:
        job = world.submit(like_tasks(4))
        dead, run = world.queue.open_run(HERE), world.queue.open_run(HERE)
        late, alive = one(world.queue, dead, 2), one(world.queue, dead, 2)
        world.pass_time(LEASE_S + 1)
        assert world.queue.expire(LEASE_S) == 4
        again = one(world.queue, run, 2)
        assert again.attempt == 2
        batch = Batch(all_ended(late) + all_ended(alive), done=[late.lease, alive.lease])
        assert world.queue.record(dead, batch) == {late.lease, alive.lease}
        assert world.counts(job) == {"pending": 2, "running": 2}
        world.queue.record(run, Batch(all_ended(again), done=[again.lease]))
        assert world.outcome_lease(job, 1) == again.lease
        world.check()

    def test_a_lease_of_another_run_records_nothing(self, world: World) -> None:
        job = world.submit(like_tasks(2))
        run, other = world.queue.open_run(HERE), world.queue.open_run(HERE)
        block = one(world.queue, run)
        assert world.queue.record(other, Batch(all_ended(block), done=[block.lease])) == {block.lease}
        assert world.counts(job) == {"running": 2}

    def test_the_living_lease_of_a_batch_is_recorded_beside_a_late_one(self, world: World) -> None:
        job = world.submit(like_tasks(4))
        dead, run = world.queue.open_run(HERE), world.queue.open_run(HERE)
        late = one(world.queue, dead, 2)
        world.queue.close_run(dead)
        alive = one(world.queue, run, 1)
        batch = Batch([ended(alive, alive.lo), ended(late, 2)], done=[alive.lease])
        assert world.queue.record(run, batch) == {late.lease}
        assert world.counts(job) == {"succeeded": 1, "pending": 3}
        world.check()

    def test_the_same_batch_again_changes_nothing(self, world: World) -> None:
        job = world.submit(like_tasks(10))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        lost = Return(span(block, 3, 5), FailureClass.LOST)
        first = Batch([ended(block, 1), ended(block, 2)], [lost])
        last = Batch(
            [ended(block, 5), ended(block, 6)], [Return(span(block, 7, 11, 1), FailureClass.NONE)], [block.lease]
        )
        for batch in (first, first, last, last):
            assert world.queue.record(run, batch) == frozenset()
            world.check()
        assert world.counts(job) == {"succeeded": 4, "pending": 6}

    def test_the_same_batch_again_after_the_lease_expired(self, world: World) -> None:
        world.submit(like_tasks(4))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        batch = Batch([ended(block, 1)])
        world.queue.record(run, batch)
        world.pass_time(LEASE_S + 1)
        world.queue.expire(LEASE_S)
        assert world.queue.record(run, batch) == frozenset()
        assert world.queue.record(run, Batch([ended(block, 2)])) == {block.lease}
        world.check()

    def test_returned_tasks_run_again_with_their_number(self, world: World) -> None:
        job = world.submit(like_tasks(10))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        returned = [Return(span(block, 4, 5), FailureClass.LOST), Return(span(block, 5, 6), FailureClass.LOST)]
        world.queue.record(run, Batch(returned=returned))
        world.check()
        again = one(world.queue, run)
        assert (again.lo, again.hi, again.attempt) == (4, 6, 2)
        unstarted = Return(span(block, 6, 11, 1), FailureClass.NONE)
        world.queue.record(run, Batch([ended(block, task) for task in (1, 2, 3)], [unstarted], [block.lease]))
        world.check()
        rest = one(world.queue, run)
        assert (rest.lo, rest.hi, rest.attempt, rest.needs) == (6, 11, 1, block.needs)
        world.queue.record(run, Batch(all_ended(again) + all_ended(rest), done=[again.lease, rest.lease]))
        assert world.counts(job) == {"succeeded": 10}
        world.check()

    def test_a_task_its_lease_has_returned_is_late(self, world: World) -> None:
        job = world.submit(like_tasks(3))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        world.queue.record(run, Batch(returned=[Return(span(block, 2, 3), FailureClass.LOST)]))
        assert world.queue.record(run, Batch([ended(block, 1), ended(block, 2)])) == frozenset()
        assert world.counts(job) == {"succeeded": 1, "pending": 1, "running": 1}
        world.check()

    def test_a_recorded_task_is_not_returned(self, world: World) -> None:
        job = world.submit(like_tasks(3))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        world.queue.record(run, Batch([ended(block, 2)]))
        world.queue.record(run, Batch(returned=[Return(span(block, 1, 4), FailureClass.LOST)]))
        assert world.counts(job) == {"succeeded": 1, "running": 2}
        world.check()

    def test_a_lease_is_not_deleted_while_it_owns_a_task(self, world: World) -> None:
        job = world.submit(like_tasks(3))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        assert world.queue.record(run, Batch([ended(block, 1)], done=[block.lease])) == frozenset()
        world.check()
        world.queue.close_run(run)
        assert world.counts(job) == {"succeeded": 1, "pending": 2}

    def test_an_outcome_out_of_the_lease_is_not_recorded(self, world: World) -> None:
        job = world.submit(like_tasks(4))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run, 2)
        world.queue.record(run, Batch([ended(block, 3)]))
        assert world.counts(job) == {"pending": 2, "running": 2}


class ExpireContract:
    def test_living_runs_keep_their_leases(self, world: World) -> None:
        world.submit(like_tasks(4))
        run = world.queue.open_run(HERE)
        lease(world.queue, run)
        world.pass_time(LEASE_S - 5)
        world.queue.renew(run)
        world.pass_time(LEASE_S - 5)
        assert world.queue.expire(LEASE_S) == 0

    def test_only_what_is_left_goes_back(self, world: World) -> None:
        job = world.submit(like_tasks(20))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run, 15)
        world.queue.record(
            run,
            Batch(
                [ended(block, task) for task in (1, 2, 5, 9, 15)],
                [Return(span(block, 3, 4), FailureClass.WALLTIME), Return(span(block, 10, 12), FailureClass.LOST)],
            ),
        )
        world.pass_time(LEASE_S + 1)
        assert world.queue.expire(LEASE_S) == 7
        assert world.queue.expire(LEASE_S) == 0
        world.check()
        assert world.counts(job) == {"succeeded": 5, "pending": 15}
        blocks = lease(world.queue, world.queue.open_run(HERE)).blocks
        spans = [(block.lo, block.hi, block.attempt) for block in blocks]
        assert spans == [(3, 4, 2), (4, 5, 2), (6, 9, 2), (10, 12, 2), (12, 15, 2), (16, 21, 1)]

    def test_tasks_recorded_by_a_later_lease_do_not_confuse_an_older_one(self, world: World) -> None:
        """A lost node's tasks are leased again while their first lease still lives."""
        job = world.submit(like_tasks(6))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        world.queue.record(run, Batch(returned=[Return(span(block, 2, 4), FailureClass.LOST)]))
        again = one(world.queue, run)
        world.queue.record(run, Batch(all_ended(again), done=[again.lease]))
        world.queue.record(run, Batch([ended(block, 1)], done=[block.lease]))
        world.check()
        world.queue.close_run(run)
        assert world.counts(job) == {"succeeded": 3, "pending": 3}
        world.check()

    def test_a_closed_run_gives_everything_back(self, world: World) -> None:
        job = world.submit(like_tasks(5))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        world.queue.record(run, Batch([ended(block, 3)]))
        world.queue.close_run(run)
        world.queue.close_run(run)
        assert world.counts(job) == {"succeeded": 1, "pending": 4}
        again = lease(world.queue, world.queue.open_run(HERE)).blocks
        assert [(block.lo, block.hi, block.attempt) for block in again] == [(1, 3, 2), (4, 6, 2)]
        world.check()


def part(count: int, *parents: Parent) -> Part:
    return Part(Needs(), [TaskText(b"true")] * count, parents)


class OrdersContract:
    def test_what_is_not_leased_is_cancelled_and_what_is_is_ordered(self, world: World) -> None:
        job = world.submit(like_tasks(10))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run, 6)
        assert world.cancel(job, 4, 9) == Cancelled(2, 3, (run,))
        assert world.queue.renew(run) == (CancelTasks(job, 4, 9),)
        assert world.queue.renew(run) == ()
        assert world.counts(job) == {"running": 6, "cancelled": 2, "pending": 2}
        world.check()
        never = Return(span(block, 5, 7, 1), FailureClass.CANCELLED)
        outcomes = [*(ended(block, task) for task in (1, 2, 3)), ended(block, 4, State.CANCELLED)]
        assert not world.queue.record(run, Batch(outcomes, [never], [block.lease]))
        assert world.counts(job) == {"succeeded": 3, "cancelled": 5, "pending": 2}
        world.check()
        assert world.retry(job, 1, 11) == 5
        assert world.counts(job) == {"succeeded": 3, "pending": 7}
        world.check()

    @pytest.mark.parametrize("how", ["close", "expire"])
    def test_what_a_run_was_ordered_to_end_does_not_begin_again(self, world: World, how: str) -> None:
        job = world.submit(like_tasks(10))
        run = world.queue.open_run(HERE)
        one(world.queue, run)
        world.cancel(job, 3, 5)
        if how == "close":
            world.queue.close_run(run)
        else:
            world.pass_time(LEASE_S + 1)
            world.queue.expire(LEASE_S)
        assert world.counts(job) == {"pending": 8, "cancelled": 2}
        world.check()

    def test_drain(self, world: World) -> None:
        run = world.queue.open_run(HERE)
        assert world.drain(run, False) and world.drain(run, True)
        assert world.queue.renew(run) == (DrainRun(False), DrainRun(True))
        world.queue.close_run(run)
        assert not world.drain(run, False)

    def test_runs_take_what_they_may(self, world: World) -> None:
        plain = world.submit_on(Terms(), part(2))
        gpu = world.submit_on(Terms(tags={"gpu": "a100"}), part(2))

        def taken(*tags: str) -> list[JobId]:
            run = world.queue.open_run(replace(HERE, tags=tags))
            jobs = [block.job for block in lease(world.queue, run).blocks]
            world.queue.close_run(run)
            return jobs

        assert taken() == [plain, gpu]
        assert taken("gpu", "*") == taken("gpu=a100", "*") == [gpu, plain]
        assert taken("gpu=", "fpga") == []
        assert not lease(world.queue, world.queue.open_run(replace(HERE, jobs=("no-such",)))).blocks

    def test_nothing_is_leased_that_cannot_end_in_time(self, world: World) -> None:
        world.submit(
            like_tasks(2, Needs(time_limit_s=100.0)) + like_tasks(3, Needs(time_limit_s=1000.0)) + like_tasks(4)
        )
        run = world.queue.open_run(replace(HERE, seconds_left=500.0))
        assert [block.needs.time_limit_s for block in lease(world.queue, run).blocks] == [100.0, 0.0]
        grant = lease(world.queue, run)
        assert (grant.blocks, grant.ready_left, grant.too_long) == ((), 0, 3)
        grant = lease(world.queue, world.queue.open_run(HERE))
        assert (len(grant.blocks), grant.others_slots) == (1, HERE.slots)

    def test_charges_travel(self, world: World) -> None:
        job = world.submit_on(Terms(policy=Policy(retries=3)), part(3))
        run = world.queue.open_run(HERE)
        grant = lease(world.queue, run)
        (block,) = grant.blocks
        assert grant.jobs[0].policy == Policy(retries=3)
        failed = Return(span(block, 1, 2)._replace(fails=1), FailureClass.EXIT, State.FAILED, 7)
        lost = Return(span(block, 2, 4)._replace(crashes=1), FailureClass.LOST)
        world.queue.record(run, Batch(returned=[failed, lost], done=[block.lease]))
        blocks = lease(world.queue, run).blocks
        assert [(b.lo, b.hi, b.attempt, b.fails, b.crashes) for b in blocks] == [(1, 2, 2, 1, 0), (2, 4, 2, 0, 1)]
        assert world.counts(job) == {"running": 3}
        world.check()

    def test_too_many_failures_stop_a_job(self, world: World) -> None:
        job = world.submit_on(Terms(max_fails=1), part(20))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run, 10)
        world.queue.record(run, Batch([ended(block, 1, State.FAILED)]))
        assert world.queue.renew(run) == ()
        world.queue.record(run, Batch([ended(block, 2, State.FAILED)]))
        assert [type(order) for order in world.queue.renew(run)] == [CancelTasks]
        assert world.counts(job) == {"failed": 2, "running": 8, "cancelled": 10}
        world.check()


class ParentsContract:
    def test_a_task_waits_until_its_parents_have_succeeded(self, world: World) -> None:
        job = world.submit_on(Terms(), part(3), part(1, Parent(1, 4)), part(2, Parent(4, 5)))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        assert (block.hi, lease(world.queue, run).waiting) == (4, 3)
        world.queue.record(run, Batch([ended(block, 1), ended(block, 2)]))
        assert world.counts(job)["waiting"] == 3
        world.queue.record(run, Batch([ended(block, 3)], done=[block.lease]))
        child = one(world.queue, run)
        assert (child.lo, child.hi) == (4, 5)
        world.queue.record(run, Batch(all_ended(child), done=[child.lease]))
        assert one(world.queue, run).lo == 5
        world.check()

    @pytest.mark.parametrize("any_end", [False, True])
    def test_a_failed_parent_and_its_retry(self, world: World, any_end: bool) -> None:
        job = world.submit_on(Terms(), part(2), part(2, Parent(1, 3, any_end)), part(1, Parent(3, 5)))
        run = world.queue.open_run(HERE)
        block = one(world.queue, run)
        world.queue.record(run, Batch([ended(block, 1), ended(block, 2, State.FAILED)], done=[block.lease]))
        world.check()
        if any_end:
            assert world.counts(job) == {"succeeded": 1, "failed": 1, "pending": 2, "waiting": 1}
            return
        assert world.counts(job) == {"succeeded": 1, "failed": 1, "cancelled": 3}
        assert world.retry(job, 2, 3) == 4
        assert world.counts(job) == {"succeeded": 1, "pending": 1, "waiting": 3}
        world.check()

    def test_cancel_of_a_parent(self, world: World) -> None:
        job = world.submit_on(Terms(), part(2), part(2, Parent(1, 3)), part(1, Parent(1, 3, any=True)))
        world.cancel(job, 1, 3)
        assert world.counts(job) == {"cancelled": 4, "pending": 1}
        world.check()


class QueueContract(LeaseContract, RecordContract, ExpireContract, OrdersContract, ParentsContract, LifecycleContract):
    """All of it."""
