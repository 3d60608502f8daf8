-- Every statement of the queue, by name. All names are qualified: nothing depends on search_path, so connection poolers
-- are welcome. States and failure classes are numbers of mpifarm.core.model; 7 is FailureClass.LOST.

-- open_run --
WITH opened AS (
    INSERT INTO mpifarm.run
        (host, pid, pid_started, boot, allocation, command, version, nodes, ranks, slots, node_names)
    VALUES
        (%(host)s, %(pid)s, %(pid_started)s, %(boot)s, %(allocation)s, %(command)s, %(version)s, %(nodes)s, %(ranks)s,
         %(slots)s, %(node_names)s)
    RETURNING id
), beating AS (
    INSERT INTO mpifarm.heartbeat (run) SELECT id FROM opened
)
SELECT id FROM opened

-- name_file --
UPDATE mpifarm.run SET file = %(path)s WHERE id = %(run)s

-- renew --
UPDATE mpifarm.heartbeat SET beat = clock_timestamp() WHERE run = %(run)s

-- lease --
-- The first columns are the same in every row. One row per lease, or a single one with NULLs.
-- The jobs that have anything ready are found by hopping along the index, so that finished ones cost nothing and the
-- priority stands in one row per job. Ranges locked by other runs are skipped, so that no two can wait for each other;
-- when that leaves nothing, the queue runs this again without SKIP LOCKED for a single range.
WITH RECURSIVE live AS MATERIALIZED (
    SELECT id FROM mpifarm.run WHERE id = %(run)s AND ended IS NULL FOR SHARE
), with_ready (job) AS (
    (SELECT job FROM mpifarm.ready ORDER BY job LIMIT 1)
    UNION ALL
    SELECT (SELECT ready.job FROM mpifarm.ready WHERE ready.job > with_ready.job ORDER BY ready.job LIMIT 1)
    FROM with_ready WHERE with_ready.job IS NOT NULL
), open AS MATERIALIZED (
    SELECT job.id, job.name, job.cwd, job.priority, job.mean_bytes
    FROM with_ready JOIN mpifarm.job ON job.id = with_ready.job
    WHERE NOT job.held
    ORDER BY job.priority DESC, job.id
), locked AS MATERIALIZED (
    -- A nested loop, in the order of `open`: only as many rows are locked as are looked at.
    SELECT best.*, open.priority, open.mean_bytes
    FROM live CROSS JOIN open CROSS JOIN LATERAL (
        SELECT * FROM mpifarm.ready
        WHERE ready.job = open.id AND ready.cpus <= %(cpus_max)s
        ORDER BY ready.lo LIMIT %(ranges_max)s
        FOR UPDATE SKIP LOCKED
    ) AS best
    LIMIT %(ranges_max)s
), summed AS (
    SELECT *,
        row_number() OVER best_first AS nth,
        sum(hi - lo) OVER best_first - (hi - lo) AS tasks_before,
        sum((hi - lo) * mean_bytes) OVER best_first - (hi - lo) * mean_bytes AS bytes_before
    FROM locked
    WINDOW best_first AS (ORDER BY priority DESC, job, lo)
), cut AS MATERIALIZED (
    SELECT *,
        least(
            hi - lo,
            %(tasks_max)s::bigint - tasks_before,
            greatest(floor((%(bytes_max)s::bigint - bytes_before) / mean_bytes), CASE nth WHEN 1 THEN 1 ELSE 0 END)
        )::integer AS take
    FROM summed
), emptied AS (
    DELETE FROM mpifarm.ready USING cut WHERE ready.id = cut.id AND cut.take = cut.hi - cut.lo
), shortened AS (
    UPDATE mpifarm.ready SET lo = ready.lo + cut.take FROM cut
    WHERE ready.id = cut.id AND cut.take > 0 AND cut.take < cut.hi - cut.lo
), given AS (
    INSERT INTO mpifarm.lease (run, job, attempt, cpus, time_limit_s, lo, hi)
    SELECT %(run)s, job, attempt, cpus, time_limit_s, lo, lo + take FROM cut WHERE take > 0 ORDER BY nth
    RETURNING *
)
SELECT
    EXISTS (SELECT FROM live) AS live,
    -- Of a thousand ranges at most: then "at least".
    (SELECT coalesce(sum(count), 0) FROM (
        SELECT r.hi - r.lo AS count FROM open CROSS JOIN LATERAL (
            SELECT lo, hi FROM mpifarm.ready WHERE ready.job = open.id AND ready.cpus <= %(cpus_max)s LIMIT 1000
        ) AS r LIMIT 1000) AS fitting
    ) - (SELECT coalesce(sum(take) FILTER (WHERE take > 0), 0) FROM cut) AS ready_left,
    (SELECT coalesce(sum(count), 0) FROM (
        SELECT r.hi - r.lo AS count FROM open CROSS JOIN LATERAL (
            SELECT lo, hi FROM mpifarm.ready WHERE ready.job = open.id AND ready.cpus > %(cpus_max)s LIMIT 1000
        ) AS r LIMIT 1000) AS wide
    ) AS too_wide,
    (SELECT coalesce(sum(lease.hi - lease.lo), 0)
        FROM mpifarm.lease
        JOIN mpifarm.run ON run.id = lease.run
        JOIN mpifarm.heartbeat ON heartbeat.run = lease.run
        WHERE lease.run <> %(run)s
        AND (run.ended IS NOT NULL OR heartbeat.beat < clock_timestamp() - make_interval(secs => %(silent_s)s))
    ) AS silent,
    given.id, given.job, given.attempt, given.cpus, given.time_limit_s, given.lo, open.name, open.cwd, texts.*
FROM (SELECT) AS always
LEFT JOIN given ON true
LEFT JOIN open ON open.id = given.job
LEFT JOIN LATERAL (
    SELECT array_agg(command) AS commands, CASE WHEN count(entry) > 0 THEN array_agg(entry) END AS entries
    FROM (
        SELECT command, entry FROM mpifarm.task
        WHERE task.job = given.job AND task.no >= given.lo AND task.no < given.hi
        ORDER BY task.no
    ) AS in_order
) AS texts ON true
ORDER BY given.id

-- await_leases --
-- A lease statement of a lost connection may still be at work; it holds this row until it has ended.
SELECT id FROM mpifarm.run WHERE id = %(run)s FOR UPDATE

-- leased_since --
-- What an answer that never arrived held: the columns of `lease`.
SELECT
    true AS live, 0 AS ready_left, 0 AS too_wide, 0 AS silent,
    lease.id, lease.job, lease.attempt, lease.cpus, lease.time_limit_s, lease.lo, job.name, job.cwd, texts.*
FROM mpifarm.lease
JOIN mpifarm.job ON job.id = lease.job
CROSS JOIN LATERAL (
    SELECT array_agg(command) AS commands, CASE WHEN count(entry) > 0 THEN array_agg(entry) END AS entries
    FROM (
        SELECT command, entry FROM mpifarm.task
        WHERE task.job = lease.job AND task.no >= lease.lo AND task.no < lease.hi
        ORDER BY task.no
    ) AS in_order
) AS texts
WHERE lease.run = %(run)s AND lease.id > %(last)s
ORDER BY lease.id

-- record --
-- `held` is the fence: a lease that is gone has no row, so nothing that names it is written. What was written before (a
-- batch sent again after a lost answer) conflicts and is neither counted nor put back again; the queue tries without ON
-- CONFLICT first, which costs a third less. A lease is deleted only when the tables agree that nothing of it is left.
-- OFFSET 0 keeps the planner to looking up rows one by one, whatever the statistics of tables that grow by the second:
-- joined, it may read all of `outcome`.
WITH held AS MATERIALIZED (
    SELECT id, run, job, attempt, cpus, time_limit_s, lo, hi FROM mpifarm.lease
    WHERE id = ANY(%(leases)s) AND run = %(run)s
    ORDER BY id FOR UPDATE
), ended AS (
    SELECT * FROM unnest(
        %(lease)s, %(no)s, %(file_row)s, %(started)s, %(seconds)s, %(node)s, %(state)s, %(failure)s, %(exit_code)s,
        %(signal)s, %(tail)s
    ) AS e (lease, no, file_row, started, seconds, node, state, failure, exit_code, signal, tail)
), recorded AS (
    INSERT INTO mpifarm.outcome
        (job, no, lease, run, file_row, started, seconds, node, attempt, state, failure, exit_code, signal, tail)
    SELECT
        held.job, ended.no, held.id, held.run, ended.file_row, ended.started, ended.seconds, ended.node, held.attempt,
        ended.state, ended.failure, ended.exit_code, ended.signal, ended.tail
    FROM ended JOIN held ON held.id = ended.lease AND ended.no >= held.lo AND ended.no < held.hi
    WHERE NOT EXISTS (
        SELECT FROM mpifarm.past WHERE past.lease = ended.lease AND past.lo <= ended.no AND ended.no < past.hi OFFSET 0
    ) ON CONFLICT (job, no) DO NOTHING
    RETURNING lease, state, seconds
), given_back AS (
    INSERT INTO mpifarm.past (lease, lo, hi, job, run, attempt, failure)
    SELECT held.id, span.lo, span.hi, held.job, held.run, held.attempt, span.failure
    FROM unnest(%(span_lease)s, %(span_lo)s, %(span_hi)s, %(span_failure)s) AS span (lease, lo, hi, failure)
    JOIN held ON held.id = span.lease AND span.lo >= held.lo AND span.hi <= held.hi
    WHERE NOT EXISTS (
        SELECT FROM mpifarm.past WHERE past.lease = span.lease AND past.lo < span.hi AND span.lo < past.hi OFFSET 0
    ) AND NOT EXISTS (
        SELECT FROM mpifarm.outcome
        WHERE outcome.job = held.job AND outcome.no >= span.lo AND outcome.no < span.hi AND outcome.lease = span.lease
        OFFSET 0
    )
    ON CONFLICT (lease, lo) DO NOTHING
    RETURNING lease, lo, hi, failure
), put_back AS (
    INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi)
    SELECT held.job, span.attempt, held.cpus, held.time_limit_s, span.lo, span.hi
    FROM given_back
    JOIN unnest(%(span_lease)s, %(span_lo)s, %(span_hi)s, %(span_attempt)s) AS span (lease, lo, hi, attempt)
        ON span.lease = given_back.lease AND span.lo = given_back.lo
    JOIN held ON held.id = span.lease
), resolved AS (
    SELECT lease, sum(tasks) AS tasks, sum(succeeded) AS succeeded, sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(returned) AS returned, sum(seconds) AS seconds
    FROM (
        SELECT lease, count(*) AS tasks, count(*) FILTER (WHERE state = 0) AS succeeded,
            count(*) FILTER (WHERE state = 1) AS failed, count(*) FILTER (WHERE state = 2) AS cancelled,
            0 AS returned, sum(seconds::double precision) AS seconds
        FROM recorded GROUP BY lease
        UNION ALL
        SELECT lease, sum(hi - lo), 0, 0, 0, coalesce(sum(hi - lo) FILTER (WHERE failure <> 0), 0), 0
        FROM given_back GROUP BY lease
    ) AS of_both
    GROUP BY lease
), counted AS (
    INSERT INTO mpifarm.tally (job, run, succeeded, failed, cancelled, returned, busy_s)
    SELECT held.job, held.run, sum(succeeded), sum(failed), sum(cancelled), sum(returned), sum(seconds * held.cpus)
    FROM resolved JOIN held ON held.id = resolved.lease
    GROUP BY held.job, held.run
), finished AS (
    DELETE FROM mpifarm.lease USING held LEFT JOIN resolved ON resolved.lease = held.id
    WHERE lease.id = held.id AND held.id = ANY(%(done)s)
    AND held.hi - held.lo = coalesce(resolved.tasks, 0)
        + (SELECT count(*) FROM mpifarm.outcome
            WHERE outcome.job = held.job AND outcome.no >= held.lo AND outcome.no < held.hi
            AND outcome.lease = held.id)
        + (SELECT coalesce(sum(past.hi - past.lo), 0) FROM mpifarm.past WHERE past.lease = held.id)
)
SELECT id FROM held

-- unrecorded --
-- Of leases that are gone: those of which something in the batch was not recorded before.
SELECT ended.lease
FROM unnest(%(lease)s, %(job)s, %(no)s) AS ended (lease, job, no)
LEFT JOIN mpifarm.outcome
    ON outcome.job = ended.job AND outcome.no = ended.no AND outcome.lease = ended.lease
WHERE outcome.no IS NULL
AND NOT EXISTS (
    SELECT FROM mpifarm.past -- recorded, and since then taken back by a retry
    WHERE past.lease = ended.lease AND past.lo <= ended.no AND ended.no < past.hi AND past.state <> 3
)
UNION
SELECT span.lease
FROM unnest(%(span_lease)s, %(span_lo)s, %(span_hi)s) AS span (lease, lo, hi)
LEFT JOIN mpifarm.past ON past.lease = span.lease AND past.lo = span.lo AND past.hi = span.hi
WHERE past.lease IS NULL

-- holders --
-- The runs that hold leases, and whether the database thinks them dead.
SELECT run.id, run.host, run.boot, run.pid, run.pid_started,
    run.ended IS NOT NULL OR heartbeat.beat < clock_timestamp() - make_interval(secs => %(lease_s)s) AS dead
FROM mpifarm.run JOIN mpifarm.heartbeat ON heartbeat.run = run.id
WHERE run.id IN (SELECT lease.run FROM mpifarm.lease)

-- lock_leases --
-- A statement of its own before `put_back`, whose snapshot must be younger than the locks: a record that was at work
-- when we came must be seen.
SELECT id FROM mpifarm.lease WHERE run = ANY(%(runs)s) ORDER BY id FOR UPDATE SKIP LOCKED

-- put_back --
-- Locked leases are deleted and the gaps between what they have resolved become ready, as the next attempt.
WITH gone AS (
    DELETE FROM mpifarm.lease WHERE id = ANY(%(leases)s) RETURNING *
), resolved AS (
    SELECT gone.id, o.no AS lo, o.no + 1 AS hi
    FROM gone CROSS JOIN LATERAL (
        SELECT no, lease FROM mpifarm.outcome
        WHERE outcome.job = gone.job AND outcome.no >= gone.lo AND outcome.no < gone.hi
        OFFSET 0 -- keeps this an index scan per lease, whatever the statistics say
    ) AS o
    WHERE o.lease = gone.id
    UNION ALL
    SELECT gone.id, past.lo, past.hi FROM gone JOIN mpifarm.past ON past.lease = gone.id
    UNION ALL
    SELECT id, hi, hi FROM gone
), gaps AS (
    SELECT gone.*, coalesce(lag(resolved.hi) OVER in_lease, gone.lo) AS gap_lo, resolved.lo AS gap_hi
    FROM resolved JOIN gone ON gone.id = resolved.id
    WINDOW in_lease AS (PARTITION BY resolved.id ORDER BY resolved.lo, resolved.hi)
), left_over AS (
    SELECT id, run, job, attempt, cpus, time_limit_s, gap_lo AS lo, gap_hi AS hi FROM gaps WHERE gap_lo < gap_hi
), noted AS (
    INSERT INTO mpifarm.past (lease, lo, hi, job, run, attempt, failure)
    SELECT id, lo, hi, job, run, attempt, 7 FROM left_over
), ready AS (
    INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi)
    SELECT job, attempt + 1, cpus, time_limit_s, lo, hi FROM left_over
), counted AS (
    INSERT INTO mpifarm.tally (job, run, returned) SELECT job, run, sum(hi - lo) FROM left_over GROUP BY job, run
)
SELECT coalesce(sum(hi - lo), 0)::integer FROM left_over

-- end_run --
UPDATE mpifarm.run SET ended = clock_timestamp() WHERE id = %(run)s AND ended IS NULL

-- fold_tally --
WITH folded AS (
    DELETE FROM mpifarm.tally WHERE run = %(run)s RETURNING *
)
INSERT INTO mpifarm.tally (job, run, succeeded, failed, cancelled, returned, busy_s)
SELECT job, run, sum(succeeded), sum(failed), sum(cancelled), sum(returned), sum(busy_s) FROM folded GROUP BY job, run

-- new_job_id --
SELECT nextval(pg_get_serial_sequence('mpifarm.job', 'id'))::integer

-- job_named --
SELECT id FROM mpifarm.job WHERE name = %(name)s

-- add_job --
INSERT INTO mpifarm.job (id, name, source, cwd, total, mean_bytes, priority, held, tags)
VALUES (%(id)s, %(name)s, %(source)s, %(cwd)s, %(total)s, %(mean_bytes)s, %(priority)s, %(held)s, %(tags)s)
ON CONFLICT (name) DO NOTHING

-- add_ready --
WITH part AS (
    SELECT %(job)s::integer AS job, p.cpus, p.time_limit_s, p.lo, p.hi
    FROM unnest(%(cpus)s, %(time_limit_s)s, %(lo)s, %(hi)s) AS p (cpus, time_limit_s, lo, hi)
), kept AS (
    INSERT INTO mpifarm.shape (job, cpus, time_limit_s, lo, hi) SELECT job, cpus, time_limit_s, lo, hi FROM part
)
INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi)
SELECT job, 1, cpus, time_limit_s, lo, hi FROM part

-- copy_tasks --
COPY mpifarm.task (job, no, command, entry) FROM STDIN (FORMAT BINARY)

-- make_staging --
-- Tasks on their way in that may be known already.
CREATE TEMPORARY TABLE staged (job integer, no integer, command bytea, entry bytea) ON COMMIT DROP

-- make_staging_shapes --
CREATE TEMPORARY TABLE staged_shape (lo integer PRIMARY KEY, hi integer, cpus integer, time_limit_s double precision)
ON COMMIT DROP

-- make_staging_kept --
CREATE TEMPORARY TABLE staged_kept (staged integer PRIMARY KEY, no integer NOT NULL) ON COMMIT DROP

-- copy_staged --
COPY pg_temp.staged (job, no, command, entry) FROM STDIN (FORMAT BINARY)

-- add_staged_shapes --
INSERT INTO pg_temp.staged_shape (lo, hi, cpus, time_limit_s)
SELECT p.lo, p.hi, p.cpus, p.time_limit_s
FROM unnest(%(cpus)s, %(time_limit_s)s, %(lo)s, %(hi)s) AS p (cpus, time_limit_s, lo, hi)

-- analyze_staged --
ANALYZE pg_temp.staged

-- keep_unknown --
-- Numbers those whose command has not succeeded in this directory yet. Digests, so that what is hashed stays small.
INSERT INTO pg_temp.staged_kept (staged, no)
WITH known AS MATERIALIZED (
    SELECT DISTINCT sha256(task.command) AS digest
    FROM mpifarm.job
    JOIN mpifarm.outcome ON outcome.job = job.id AND outcome.state = 0
    JOIN mpifarm.task ON task.job = outcome.job AND task.no = outcome.no
    WHERE job.cwd = %(cwd)s
)
SELECT no, %(before)s + row_number() OVER (ORDER BY no)
FROM pg_temp.staged
WHERE NOT EXISTS (SELECT FROM known WHERE known.digest = sha256(staged.command))

-- add_staged_tasks --
WITH added AS (
    INSERT INTO mpifarm.task (job, no, command, entry)
    SELECT staged.job, kept.no, staged.command, staged.entry
    FROM pg_temp.staged JOIN pg_temp.staged_kept AS kept ON kept.staged = staged.no
    RETURNING octet_length(command) AS bytes
)
SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM added

-- add_staged_ready --
WITH shaped AS (
    SELECT kept.no, shape.cpus, shape.time_limit_s
    FROM pg_temp.staged_kept AS kept
    CROSS JOIN LATERAL (
        SELECT cpus, time_limit_s FROM pg_temp.staged_shape AS s WHERE s.lo <= kept.staged ORDER BY s.lo DESC LIMIT 1
    ) AS shape
), part AS (
    SELECT %(job)s::integer AS job, cpus, time_limit_s, min(no) AS lo, max(no) + 1 AS hi
    FROM (
        SELECT *, no - row_number() OVER (PARTITION BY cpus, time_limit_s ORDER BY no) AS island FROM shaped
    ) AS numbered
    GROUP BY cpus, time_limit_s, island
), kept AS (
    INSERT INTO mpifarm.shape (job, cpus, time_limit_s, lo, hi) SELECT job, cpus, time_limit_s, lo, hi FROM part
)
INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi)
SELECT job, 1, cpus, time_limit_s, lo, hi FROM part

-- lock_adding --
-- One submit at a time adds to a job; `set`, `retry` and `cancel` need not wait for it.
SELECT pg_advisory_xact_lock(1836085094, %(job)s)

-- job_size --
SELECT total, cwd, name FROM mpifarm.job WHERE id = %(job)s

-- grow_job --
UPDATE mpifarm.job
SET total = total + %(tasks)s,
    mean_bytes = greatest(1, (mean_bytes * total + %(command_bytes)s) / (total::bigint + %(tasks)s))
WHERE id = %(job)s

-- note_submission --
INSERT INTO mpifarm.submission (job, lo, hi, path, digest) VALUES (%(job)s, %(lo)s, %(hi)s, %(path)s, %(digest)s)

-- submitted_before --
SELECT job.name FROM mpifarm.submission JOIN mpifarm.job ON job.id = submission.job
WHERE submission.digest = %(digest)s AND submission.path = %(path)s
ORDER BY submission.submitted DESC, submission.lo DESC LIMIT 5

-- set_job --
UPDATE mpifarm.job
SET priority = coalesce(%(priority)s, priority), held = coalesce(%(held)s, held), tags = tags || %(tags)s
WHERE id = %(job)s

-- lock_job --
-- Verbs of people take turns on a job. Not FOR UPDATE, which would stop leases, whose foreign key wants the row.
SELECT id FROM mpifarm.job WHERE id = %(job)s FOR NO KEY UPDATE

-- lock_job_leases --
-- As `lock_leases`: a record at work must be seen, and one that is sent again must see what is done here.
SELECT id FROM mpifarm.lease WHERE job = %(job)s ORDER BY id FOR UPDATE

-- lock_named_leases --
SELECT id FROM mpifarm.lease WHERE id = ANY(%(leases)s) ORDER BY id FOR UPDATE

-- retry --
-- Outcomes become attempts of the past and their tasks ready again, some of them at a time, in order.
WITH chosen AS MATERIALIZED (
    SELECT no FROM mpifarm.outcome
    WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s AND state <> 0
    AND state = ANY(%(states)s) AND failure = ANY(%(failures)s)
    ORDER BY no LIMIT %(tasks_max)s
), taken AS (
    DELETE FROM mpifarm.outcome USING chosen WHERE outcome.job = %(job)s AND outcome.no = chosen.no
    RETURNING outcome.job, outcome.no, outcome.lease, outcome.run, outcome.attempt, outcome.state, outcome.failure,
        outcome.exit_code, outcome.signal
), noted AS (
    INSERT INTO mpifarm.past (lease, lo, hi, job, run, attempt, failure, state, exit_code, signal)
    SELECT lease, min(no), max(no) + 1, job, run, attempt, failure, state, exit_code, signal
    FROM (
        SELECT *, no - row_number() OVER (
            PARTITION BY lease, attempt, failure, state, exit_code, signal ORDER BY no
        ) AS island
        FROM taken
    ) AS numbered
    GROUP BY lease, job, run, attempt, failure, state, exit_code, signal, island
), shaped AS (
    SELECT taken.job, taken.no, taken.attempt, shape.cpus, shape.time_limit_s
    FROM taken CROSS JOIN LATERAL (
        SELECT cpus, time_limit_s FROM mpifarm.shape
        WHERE shape.job = taken.job AND shape.lo <= taken.no ORDER BY shape.lo DESC LIMIT 1
    ) AS shape
), put_back AS (
    INSERT INTO mpifarm.ready (job, attempt, cpus, time_limit_s, lo, hi)
    SELECT job, attempt + 1, cpus, time_limit_s, min(no), max(no) + 1
    FROM (
        SELECT *, no - row_number() OVER (PARTITION BY attempt, cpus, time_limit_s ORDER BY no) AS island FROM shaped
    ) AS numbered
    GROUP BY job, attempt, cpus, time_limit_s, island
), counted AS (
    INSERT INTO mpifarm.tally (job, run, succeeded, failed, cancelled, returned)
    SELECT job, run, -count(*) FILTER (WHERE state = 0), -count(*) FILTER (WHERE state = 1),
        -count(*) FILTER (WHERE state = 2), count(*)
    FROM taken GROUP BY job, run
)
SELECT count(*), coalesce(max(no), 0) FROM taken

-- revive --
-- Ranges cancelled before they were leased wait again; of a range that is wanted in part, the rest stays.
WITH hit AS (
    DELETE FROM mpifarm.cancelled WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s RETURNING *
), kept AS (
    INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, cpus, time_limit_s, cancelled)
    SELECT job, part.lo, part.hi, attempt, cpus, time_limit_s, cancelled
    FROM hit CROSS JOIN LATERAL (VALUES (hit.lo, %(lo)s), (%(hi)s, hit.hi)) AS part (lo, hi)
    WHERE part.lo < part.hi
), put_back AS (
    INSERT INTO mpifarm.ready (job, lo, hi, attempt, cpus, time_limit_s)
    SELECT job, greatest(lo, %(lo)s), least(hi, %(hi)s), attempt, cpus, time_limit_s FROM hit
)
SELECT coalesce(sum(least(hi, %(hi)s) - greatest(lo, %(lo)s)), 0)::integer FROM hit

-- cancel --
-- A lease under way is waited for: a range that it shortened is cancelled as short as it is now.
WITH hit AS (
    DELETE FROM mpifarm.ready WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s RETURNING *
), kept AS (
    INSERT INTO mpifarm.ready (job, lo, hi, attempt, cpus, time_limit_s)
    SELECT job, part.lo, part.hi, attempt, cpus, time_limit_s
    FROM hit CROSS JOIN LATERAL (VALUES (hit.lo, %(lo)s), (%(hi)s, hit.hi)) AS part (lo, hi)
    WHERE part.lo < part.hi
), moved AS (
    INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, cpus, time_limit_s)
    SELECT job, greatest(lo, %(lo)s), least(hi, %(hi)s), attempt, cpus, time_limit_s FROM hit
)
SELECT coalesce(sum(least(hi, %(hi)s) - greatest(lo, %(lo)s)), 0)::integer FROM hit

-- counts --
SELECT state, count(*)::integer FROM mpifarm.task_line WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s
GROUP BY state

-- holdings --
-- What runs hold, of one job or of all; `dead` as in `holders`.
SELECT run.id, run.host, run.boot, run.pid, run.pid_started,
    run.ended IS NOT NULL OR heartbeat.beat < clock_timestamp() - make_interval(secs => %(lease_s)s) AS dead,
    extract(epoch FROM clock_timestamp() - heartbeat.beat)::double precision,
    sum(lease.hi - lease.lo - recorded.count - returned.count)::integer
FROM mpifarm.lease
JOIN mpifarm.run ON run.id = lease.run
JOIN mpifarm.heartbeat ON heartbeat.run = lease.run
CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM (
        SELECT outcome.lease FROM mpifarm.outcome
        WHERE outcome.job = lease.job AND outcome.no >= lease.lo AND outcome.no < lease.hi OFFSET 0
    ) AS o WHERE o.lease = lease.id
) AS recorded
CROSS JOIN LATERAL (
    SELECT coalesce(sum(past.hi - past.lo), 0) AS count FROM mpifarm.past WHERE past.lease = lease.id
) AS returned
WHERE %(job)s::integer IS NULL OR lease.job = %(job)s
GROUP BY run.id, heartbeat.run
ORDER BY run.id

-- drop_ready --
DELETE FROM mpifarm.ready WHERE job = %(job)s

-- drop_leases --
DELETE FROM mpifarm.lease WHERE job = %(job)s

-- drop_job --
-- Foreign keys are checked at the end of the statement, when all of it is gone.
WITH task AS (
    DELETE FROM mpifarm.task WHERE job = %(job)s
), shape AS (
    DELETE FROM mpifarm.shape WHERE job = %(job)s
), submission AS (
    DELETE FROM mpifarm.submission WHERE job = %(job)s
), outcome AS (
    DELETE FROM mpifarm.outcome WHERE job = %(job)s
), cancelled AS (
    DELETE FROM mpifarm.cancelled WHERE job = %(job)s
), past AS (
    DELETE FROM mpifarm.past WHERE job = %(job)s
), tally AS (
    DELETE FROM mpifarm.tally WHERE job = %(job)s
)
DELETE FROM mpifarm.job WHERE id = %(job)s

-- attempts --
SELECT attempt, state, failure, exit_code, signal, run, extract(epoch FROM put_back)::double precision
FROM mpifarm.past WHERE job = %(job)s AND lo <= %(no)s AND %(no)s < hi
ORDER BY attempt, put_back

-- taken_back --
-- Attempts of a run that had an outcome until a retry.
SELECT lease, lo, hi FROM mpifarm.past WHERE run = %(run)s AND state <> 3 ORDER BY lease, lo

-- leased_when --
SELECT extract(epoch FROM given)::double precision FROM mpifarm.lease WHERE id = %(lease)s

-- shapes --
SELECT lo, hi, cpus, time_limit_s FROM mpifarm.shape
WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s ORDER BY lo

-- ready_cpus --
-- Pending tasks of a job by the cores they need.
SELECT cpus, sum(least(hi, %(hi)s) - greatest(lo, %(lo)s))::integer FROM mpifarm.ready
WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s GROUP BY cpus ORDER BY cpus

-- jobs --
-- A task is in one place only, so those that are in no other are running.
SELECT job.id, job.name, extract(epoch FROM job.submitted)::double precision, job.priority, job.held, job.source,
    job.cwd, job.total, job.tags, ready.count, ended.succeeded, ended.failed, ended.cancelled + before.cancelled
FROM mpifarm.job
CROSS JOIN LATERAL (
    SELECT coalesce(sum(hi - lo), 0)::integer AS count FROM mpifarm.ready WHERE ready.job = job.id
) AS ready
CROSS JOIN LATERAL (
    SELECT coalesce(sum(succeeded), 0)::integer AS succeeded, coalesce(sum(failed), 0)::integer AS failed,
        coalesce(sum(cancelled), 0)::integer AS cancelled
    FROM mpifarm.tally WHERE tally.job = job.id
) AS ended
CROSS JOIN LATERAL (
    SELECT coalesce(sum(hi - lo), 0)::integer AS cancelled FROM mpifarm.cancelled WHERE cancelled.job = job.id
) AS before
WHERE %(job)s::integer IS NULL OR job.id = %(job)s
ORDER BY job.id

-- job_names --
SELECT id, name FROM mpifarm.job ORDER BY id

-- tasks --
SELECT no, state, failure, exit_code, signal, seconds, started, node, attempts, command, entry, run, file, file_row,
    lease, attempt, tail
FROM mpifarm.task_line
WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s AND state = ANY(%(states)s)
ORDER BY no

-- copy_places --
COPY (
    SELECT no, run, file_row, lease, attempt, state FROM mpifarm.outcome
    WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s ORDER BY no
) TO STDOUT (FORMAT binary)

-- tasks_bad --
-- As `tasks`, for states that end badly, beginning with the index that holds only these. OFFSET 0 keeps the planner to
-- this order, whatever the statistics of a table that has just been filled.
SELECT line.*
FROM (
    SELECT no FROM mpifarm.outcome
    WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s AND state <> 0
    UNION ALL
    SELECT generate_series(greatest(lo, %(lo)s), least(hi, %(hi)s) - 1) FROM mpifarm.cancelled
    WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s
    ORDER BY no OFFSET 0
) AS bad
CROSS JOIN LATERAL (
    SELECT no, state, failure, exit_code, signal, seconds, started, node, attempts, command, entry, run, file, file_row,
        lease, attempt, tail
    FROM mpifarm.task_line WHERE job = %(job)s AND no = bad.no OFFSET 0
) AS line
WHERE line.state = ANY(%(states)s)
ORDER BY bad.no

-- failures --
SELECT kind.failure, kind.count, kind.example, outcome.exit_code, outcome.signal, outcome.tail
FROM (
    SELECT failure, sum(count)::bigint AS count, min(example) AS example
    FROM (
        SELECT failure, count(*) AS count, min(no) AS example
        FROM mpifarm.outcome WHERE job = %(job)s AND state <> 0 GROUP BY failure
        UNION ALL
        SELECT 8, hi - lo, lo FROM mpifarm.cancelled WHERE job = %(job)s
    ) AS of_both
    GROUP BY failure
) AS kind
LEFT JOIN mpifarm.outcome ON outcome.job = %(job)s AND outcome.no = kind.example
ORDER BY kind.count DESC, kind.failure

-- durations --
SELECT percentile_disc(ARRAY[0.5, 0.95, 1.0]) WITHIN GROUP (ORDER BY seconds)::double precision[]
FROM mpifarm.outcome WHERE job = %(job)s

-- runs --
SELECT run.id, run.host, run.pid, run.allocation, run.nodes, run.ranks, run.slots,
    extract(epoch FROM run.started)::double precision, extract(epoch FROM heartbeat.beat)::double precision,
    extract(epoch FROM run.ended)::double precision, run.file,
    sums.succeeded, sums.failed, sums.cancelled, sums.returned,
    run.ended IS NULL AND heartbeat.beat > clock_timestamp() - make_interval(secs => %(lease_s)s) AS live,
    sums.busy_s, run.boot, run.pid_started
FROM mpifarm.run
JOIN mpifarm.heartbeat ON heartbeat.run = run.id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(succeeded), 0)::integer AS succeeded, coalesce(sum(failed), 0)::integer AS failed,
        coalesce(sum(cancelled), 0)::integer AS cancelled, coalesce(sum(returned), 0)::integer AS returned,
        coalesce(sum(busy_s), 0) AS busy_s
    FROM mpifarm.tally
    WHERE tally.run = run.id AND (%(job)s::integer IS NULL OR tally.job = %(job)s)
) AS sums
WHERE %(job)s::integer IS NULL
OR EXISTS (SELECT FROM mpifarm.tally WHERE tally.run = run.id AND tally.job = %(job)s)
OR EXISTS (SELECT FROM mpifarm.lease WHERE lease.run = run.id AND lease.job = %(job)s)
ORDER BY run.id

-- misplaced --
-- Proof of "every task is in exactly one place": all places of a job's tasks, in order, must touch without a gap or an
-- overlap from 1 to its total. Returns where they do not: expected and found task number.
WITH places AS (
    SELECT lo, hi FROM mpifarm.ready WHERE job = %(job)s
    UNION ALL
    SELECT no, no + 1 FROM mpifarm.outcome WHERE job = %(job)s
    UNION ALL
    SELECT lo, hi FROM mpifarm.cancelled WHERE job = %(job)s
    UNION ALL
    SELECT gap_lo, gap_hi FROM (
        SELECT coalesce(lag(resolved.hi) OVER in_lease, resolved.first) AS gap_lo, resolved.lo AS gap_hi
        FROM (
            SELECT lease.id, lease.lo AS first, outcome.no AS lo, outcome.no + 1 AS hi
            FROM mpifarm.lease JOIN mpifarm.outcome
                ON outcome.job = lease.job AND outcome.no >= lease.lo AND outcome.no < lease.hi
                AND outcome.lease = lease.id
            WHERE lease.job = %(job)s
            UNION ALL
            SELECT lease.id, lease.lo, past.lo, past.hi
            FROM mpifarm.lease JOIN mpifarm.past ON past.lease = lease.id WHERE lease.job = %(job)s
            UNION ALL
            SELECT id, lo, hi, hi FROM mpifarm.lease WHERE job = %(job)s
        ) AS resolved
        WINDOW in_lease AS (PARTITION BY resolved.id ORDER BY resolved.lo, resolved.hi)
    ) AS gaps WHERE gap_lo < gap_hi
    UNION ALL
    SELECT total + 1, total + 1 FROM mpifarm.job WHERE id = %(job)s
), steps AS (
    SELECT coalesce(lag(hi) OVER (ORDER BY lo, hi), 1) AS expected, lo AS found FROM places
)
SELECT expected, found FROM steps WHERE expected <> found ORDER BY found LIMIT 10
