-- Every statement of the queue, by name. Every LIMIT but 1 has a name in caps.py, where stands who goes on from there.
-- All names are qualified: nothing depends on search_path, so connection poolers are welcome. States and failure classes are numbers of mpifarm.core.model; 7 is FailureClass.LOST.

-- open_run --
WITH opened AS (
    INSERT INTO mpifarm.run
        (host, pid, pid_started, boot, allocation, command, version, nodes, ranks, slots, node_names, jobs, tags, room, ends)
    VALUES
        (%(host)s, %(pid)s, %(pid_started)s, %(boot)s, %(allocation)s, %(command)s, %(version)s, %(nodes)s, %(ranks)s,
         %(slots)s, %(node_names)s, %(jobs)s, %(tags)s, %(room)s,
         clock_timestamp() + make_interval(secs => %(seconds_left)s::double precision))
    RETURNING id
), beating AS (
    INSERT INTO mpifarm.heartbeat (run) SELECT id FROM opened
)
SELECT id FROM opened

-- name_file --
UPDATE mpifarm.run SET file = %(path)s WHERE id = %(run)s

-- renew --
-- And what was asked of the run meanwhile. By name and not by "younger than": they commit in any order.
WITH beat AS (
    UPDATE mpifarm.heartbeat SET beat = clock_timestamp() WHERE run = %(run)s
)
SELECT id, job, lo, hi, now FROM mpifarm.request WHERE run = %(run)s AND id <> ALL(%(seen)s) ORDER BY id

-- lease, lease_waiting --
-- The first columns are the same in every row. One row per lease, or a single one with NULLs.
-- The jobs that have anything ready are found in the ranges, or, where those are many, by hopping along the index: so
-- finished ones cost nothing, and the priority stands in one row per job. Ranges locked by other runs are skipped, so that no two can wait for each other;
-- when that leaves nothing, the queue waits for a single one: lease_waiting.
WITH RECURSIVE live AS MATERIALIZED (
    SELECT id, jobs, tags, extract(epoch FROM ends - clock_timestamp())::double precision AS left_s
    FROM mpifarm.run WHERE id = %(run)s AND ended IS NULL FOR SHARE
), few AS MATERIALIZED (
    SELECT job FROM mpifarm.ready LIMIT :hopped
), hop (job) AS (
    (SELECT job FROM mpifarm.ready WHERE (SELECT count(*) FROM few) = :hopped ORDER BY job LIMIT 1)
    UNION ALL
    SELECT (SELECT ready.job FROM mpifarm.ready WHERE ready.job > hop.job ORDER BY ready.job LIMIT 1)
    FROM hop WHERE hop.job IS NOT NULL
), with_ready AS (
    SELECT job FROM hop
    UNION ALL
    SELECT DISTINCT job FROM few WHERE (SELECT count(*) FROM few) < :hopped
), offered AS NOT MATERIALIZED (
    -- Whether a node of this run has what tasks of a shape need, and whether they can end in time.
    SELECT shape.id, shape.job, shape.kind, shape.needs,
        shape.cpus <= %(cpus)s AND shape.memory_bytes <= %(memory_bytes)s AND shape.gpu_millis <= %(gpu_millis)s
        AND shape.nodes <= %(nodes)s
        AND (shape.resources IS NULL OR mpifarm.within(shape.resources, %(resources)s)) AS fits,
        coalesce(coalesce((shape.needs -> 'time_request_s')::double precision, shape.time_limit_s)
            <= (SELECT left_s FROM live), true) AS ends_in_time
    FROM mpifarm.shape
), open AS MATERIALIZED (
    SELECT job.id, job.name, job.cwd, job.priority, job.mean_bytes, job.policy, route.nth AS route
    FROM live CROSS JOIN with_ready JOIN mpifarm.job ON job.id = with_ready.job
    LEFT JOIN LATERAL (
        SELECT min(nth) AS nth FROM unnest(live.tags) WITH ORDINALITY AS t (word, nth)
        WHERE word = '*' OR job.tags ? word
        OR job.tags ->> split_part(word, '=', 1) = substr(word, nullif(strpos(word, '='), 0) + 1)
    ) AS route ON true
    WHERE NOT job.held AND (live.jobs = '{}' OR job.name = ANY(live.jobs))
    AND (live.tags = '{}' OR route.nth IS NOT NULL)
    ORDER BY route.nth, job.priority DESC, job.id
), routed AS MATERIALIZED (
    -- With some of the shapes that this run takes of each job, listed when the job is looked at; others are looked up for
    -- each range, never joined: the planner must not read the ranges in another order.
    SELECT open.*, ARRAY(
        SELECT id FROM (
            SELECT * FROM offered WHERE offered.job = open.id ORDER BY kind, needs LIMIT :listed
        ) AS first WHERE fits AND ends_in_time
    ) AS taken
    FROM open
), locked AS MATERIALIZED (
    -- A nested loop, in the order of `open`: only as many rows are locked as are looked at.
    SELECT best.*, routed.route, routed.priority, routed.mean_bytes
    FROM routed CROSS JOIN LATERAL (
        SELECT * FROM mpifarm.ready
        WHERE ready.job = routed.id AND (
            ready.shape = ANY(routed.taken)
            OR (SELECT fits AND ends_in_time FROM offered WHERE offered.id = ready.shape)
        )
        ORDER BY ready.lo LIMIT %(leased)s
        FOR UPDATE
        SKIP LOCKED -- only lease
    ) AS best
    LIMIT %(leased)s
), summed AS (
    SELECT *,
        row_number() OVER best_first AS nth,
        sum(hi - lo) OVER best_first - (hi - lo) AS tasks_before,
        sum((hi - lo) * mean_bytes) OVER best_first - (hi - lo) * mean_bytes AS bytes_before
    FROM locked
    WINDOW best_first AS (ORDER BY route, priority DESC, job, lo)
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
    INSERT INTO mpifarm.lease (run, job, attempt, lo, hi, fails, crashes, shape)
    SELECT %(run)s, job, attempt, lo, lo + take, fails, crashes, shape FROM cut WHERE take > 0 ORDER BY nth
    RETURNING *
)
SELECT
    EXISTS (SELECT FROM live) AS live,
    -- Of so many ranges at most: then 2 ** 40 more, which says "at least". What only matters to a run that got nothing is
    -- counted only then.
    (SELECT CASE count(*) WHEN :counted_ready THEN 1::bigint << 40 ELSE 0 END + greatest(0, coalesce(sum(tasks), 0)
        - (SELECT coalesce(sum(take) FILTER (WHERE take > 0), 0) FROM cut)) FROM (
        SELECT r.hi - r.lo AS tasks FROM routed CROSS JOIN LATERAL (
            SELECT lo, hi FROM mpifarm.ready WHERE ready.job = routed.id AND (
                ready.shape = ANY(routed.taken)
                OR (SELECT fits AND ends_in_time FROM offered WHERE offered.id = ready.shape)
            ) LIMIT :counted_ready
        ) AS r LIMIT :counted_ready) AS fitting
    ) AS ready_left,
    CASE WHEN EXISTS (SELECT FROM given) THEN 0 ELSE (SELECT CASE count(*) WHEN :counted THEN 1::bigint << 40 ELSE 0 END + coalesce(sum(tasks), 0) FROM (
        SELECT r.hi - r.lo AS tasks FROM open CROSS JOIN LATERAL (
            SELECT lo, hi FROM mpifarm.ready WHERE ready.job = open.id
            AND NOT (SELECT fits FROM offered WHERE offered.id = ready.shape) LIMIT :counted
        ) AS r LIMIT :counted) AS wide
    ) END AS too_wide,
    CASE WHEN EXISTS (SELECT FROM given) THEN 0 ELSE (SELECT coalesce(sum(lease.hi - lease.lo), 0)
        FROM mpifarm.lease
        JOIN mpifarm.run ON run.id = lease.run
        JOIN mpifarm.heartbeat ON heartbeat.run = lease.run
        WHERE lease.run <> %(run)s
        AND (run.ended IS NOT NULL OR heartbeat.beat < clock_timestamp() - make_interval(secs => %(silent_s)s))
    ) END AS silent,
    CASE WHEN EXISTS (SELECT FROM given) THEN 0 ELSE (SELECT CASE count(*) WHEN :counted THEN 1::bigint << 40 ELSE 0 END + coalesce(sum(tasks), 0) FROM (
        SELECT r.hi - r.lo AS tasks FROM open CROSS JOIN LATERAL (
            SELECT lo, hi FROM mpifarm.ready WHERE ready.job = open.id
            AND (SELECT fits AND NOT ends_in_time FROM offered WHERE offered.id = ready.shape) LIMIT :counted
        ) AS r LIMIT :counted) AS long
    ) END AS too_long,
    CASE WHEN EXISTS (SELECT FROM given) THEN 0 ELSE (SELECT CASE count(*) WHEN :counted THEN 1::bigint << 40 ELSE 0 END + coalesce(sum(tasks), 0) FROM (
        SELECT waiting.hi - waiting.lo AS tasks
        FROM live CROSS JOIN mpifarm.waiting JOIN mpifarm.job ON job.id = waiting.job
        WHERE NOT job.held AND (live.jobs = '{}' OR job.name = ANY(live.jobs)) LIMIT :counted) AS waits
    ) END AS waiting,
    (SELECT coalesce(sum(run.slots), 0) FROM mpifarm.run JOIN mpifarm.heartbeat ON heartbeat.run = run.id
        WHERE run.id <> %(run)s AND run.ended IS NULL
        AND heartbeat.beat >= clock_timestamp() - make_interval(secs => %(silent_s)s)
    ) AS others_slots,
    given.id, given.job, given.attempt, given.lo, given.fails, given.crashes,
    given.shape, open.name, open.cwd, open.policy, texts.*
FROM (SELECT) AS always
LEFT JOIN given ON true
LEFT JOIN open ON open.id = given.job
LEFT JOIN LATERAL (
    SELECT array_agg(body) AS bodies, CASE WHEN count(entry) > 0 THEN array_agg(entry) END AS entries
    FROM (
        SELECT body, entry FROM mpifarm.task
        WHERE task.job = given.job AND task.no >= given.lo AND task.no < given.hi
        ORDER BY task.no
    ) AS in_order
) AS texts ON true
ORDER BY given.id

-- shapes_numbered --
-- Asked once for each shape that a run meets: a lease brings its number.
SELECT id, kind, needs FROM mpifarm.shape WHERE id = ANY(%(shapes)s)

-- await_leases --
-- A lease statement of a lost connection may still be at work; it holds this row until it has ended.
SELECT id FROM mpifarm.run WHERE id = %(run)s FOR UPDATE

-- leased_since --
-- What an answer that never arrived held: the columns of `lease`.
SELECT
    true AS live, 0 AS ready_left, 0 AS too_wide, 0 AS silent, 0 AS too_long, 0 AS waiting, 0 AS others_slots,
    lease.id, lease.job, lease.attempt, lease.lo, lease.fails, lease.crashes,
    lease.shape, job.name, job.cwd, job.policy, texts.*
FROM mpifarm.lease
JOIN mpifarm.job ON job.id = lease.job
CROSS JOIN LATERAL (
    SELECT array_agg(body) AS bodies, CASE WHEN count(entry) > 0 THEN array_agg(entry) END AS entries
    FROM (
        SELECT body, entry FROM mpifarm.task
        WHERE task.job = lease.job AND task.no >= lease.lo AND task.no < lease.hi
        ORDER BY task.no
    ) AS in_order
) AS texts
WHERE lease.run = %(run)s AND lease.id > %(last)s
ORDER BY lease.id

-- record_new, record --
-- `held` is the fence: a lease that is gone has no row, so nothing that names it is written. What was written before (a
-- batch sent again after a lost answer) conflicts and is neither counted nor put back again; the queue tries record_new
-- first, which costs a third less. A lease is deleted only when the tables agree that nothing of it is left.
-- OFFSET 0 keeps the planner to looking up rows one by one, whatever the statistics of tables that grow by the second:
-- joined, it may read all of `outcome`.
WITH held AS MATERIALIZED (
    SELECT id, run, job, attempt, lo, hi, given, shape,
        (SELECT cpus FROM mpifarm.shape WHERE shape.id = lease.shape) AS cpus
    FROM mpifarm.lease
    WHERE id = ANY(%(leases)s) AND run = %(run)s
    ORDER BY id FOR UPDATE
), ended AS (
    SELECT * FROM unnest(
        %(lease)s, %(no)s, %(file_row)s, %(started)s, %(seconds)s, %(node)s, %(state)s, %(failure)s, %(exit_code)s,
        %(signal)s, %(tail)s, %(checksum)s, %(processes_left)s
    ) AS e (
        lease, no, file_row, started, seconds, node, state, failure, exit_code, signal, tail, checksum, processes_left
    )
), recorded AS (
    INSERT INTO mpifarm.outcome
        (job, no, lease, run, file_row, started, seconds, node, attempt, state, failure, exit_code, signal, tail,
         checksum, processes_left)
    SELECT
        held.job, ended.no, held.id, held.run, ended.file_row, ended.started, ended.seconds, ended.node, held.attempt,
        ended.state, ended.failure, ended.exit_code, ended.signal, ended.tail, ended.checksum,
        ended.processes_left
    FROM ended JOIN held ON held.id = ended.lease AND ended.no >= held.lo AND ended.no < held.hi
    WHERE NOT EXISTS (
        SELECT FROM mpifarm.past WHERE past.lease = ended.lease AND past.lo <= ended.no AND ended.no < past.hi OFFSET 0
    )
    ON CONFLICT (job, no) DO NOTHING -- only record
    RETURNING lease, state, seconds
), given_back AS (
    INSERT INTO mpifarm.past (lease, lo, hi, job, run, attempt, failure, state, exit_code, signal)
    SELECT held.id, span.lo, span.hi, held.job, held.run, held.attempt, span.failure, span.state,
        span.exit_code, span.signal
    FROM unnest(
        %(span_lease)s, %(span_lo)s, %(span_hi)s, %(span_failure)s, %(span_state)s, %(span_exit_code)s, %(span_signal)s
    ) AS span (lease, lo, hi, failure, state, exit_code, signal)
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
), next AS (
    SELECT held.job, span.attempt, held.shape, span.lo, span.hi, span.fails, span.crashes,
        given_back.failure = 8 AS never
    FROM given_back
    JOIN unnest(%(span_lease)s, %(span_lo)s, %(span_hi)s, %(span_attempt)s, %(span_fails)s, %(span_crashes)s)
        AS span (lease, lo, hi, attempt, fails, crashes)
        ON span.lease = given_back.lease AND span.lo = given_back.lo
    JOIN held ON held.id = span.lease
), put_back AS (
    INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi, fails, crashes)
    SELECT job, attempt, shape, lo, hi, fails, crashes FROM next WHERE NOT never
), never_begun AS (
    INSERT INTO mpifarm.cancelled (job, attempt, shape, lo, hi)
    SELECT job, attempt, shape, lo, hi FROM next WHERE never
), resolved AS (
    SELECT lease, sum(tasks) AS tasks, sum(succeeded) AS succeeded, sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(returned) AS returned, sum(seconds) AS seconds
    FROM (
        SELECT lease, count(*) AS tasks, count(*) FILTER (WHERE state = 0) AS succeeded,
            count(*) FILTER (WHERE state = 1) AS failed, count(*) FILTER (WHERE state = 2) AS cancelled,
            0 AS returned, sum(seconds::double precision) AS seconds
        FROM recorded GROUP BY lease
        UNION ALL
        SELECT lease, sum(hi - lo), 0, 0, 0, coalesce(sum(hi - lo) FILTER (WHERE failure NOT IN (0, 8)), 0), 0
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
SELECT id, extract(epoch FROM given)::double precision FROM held

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

-- lock_leases, lock_leases_waiting --
-- A statement of its own before `put_back`, whose snapshot must be younger than the locks: a record that was at work
-- when we came must be seen.
SELECT id FROM mpifarm.lease WHERE run = ANY(%(runs)s) ORDER BY id FOR UPDATE
SKIP LOCKED -- only lock_leases

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
    SELECT id, run, job, attempt, shape, fails, crashes, gap_lo AS lo, gap_hi AS hi
    FROM gaps WHERE gap_lo < gap_hi
), noted AS (
    INSERT INTO mpifarm.past (lease, lo, hi, job, run, attempt, failure)
    SELECT id, lo, hi, job, run, attempt, 7 FROM left_over
), ready AS (
    INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi, fails, crashes)
    SELECT job, attempt + 1, shape, lo, hi, fails, crashes FROM left_over
), counted AS (
    INSERT INTO mpifarm.tally (job, run, returned) SELECT job, run, sum(hi - lo) FROM left_over GROUP BY job, run
)
SELECT run, job, lo, hi FROM left_over

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
INSERT INTO mpifarm.job (id, name, source, cwd, total, mean_bytes, priority, held, tags, policy, max_fails)
VALUES (%(id)s, %(name)s, %(source)s, %(cwd)s, %(total)s, %(mean_bytes)s, %(priority)s, %(held)s, %(tags)s,
    %(policy)s, %(max_fails)s)
ON CONFLICT (name) DO NOTHING

-- add_shapes --
-- Of kinds and needs, each pair once: the numbers of their shapes in this job, in order.
WITH wanted AS MATERIALIZED (
    SELECT kind, needs, nth FROM unnest(%(kind)s, %(needs)s::jsonb[]) WITH ORDINALITY AS w (kind, needs, nth)
), known AS MATERIALIZED (
    SELECT nth, (
        SELECT id FROM mpifarm.shape
        WHERE shape.job = %(job)s AND shape.kind = wanted.kind AND shape.needs = wanted.needs
    ) AS id FROM wanted
), added AS (
    INSERT INTO mpifarm.shape (job, kind, needs)
    SELECT %(job)s, kind, needs FROM wanted JOIN known USING (nth) WHERE known.id IS NULL ORDER BY nth
    RETURNING id, kind, needs
)
SELECT coalesce(known.id, added.id)
FROM wanted JOIN known USING (nth) LEFT JOIN added USING (kind, needs)
ORDER BY nth

-- add_ready --
WITH part AS (
    SELECT %(job)s::integer AS job, p.shape, p.lo, p.hi, p.waits <> 0 AS waits
    FROM unnest(%(shape)s, %(lo)s, %(hi)s, %(waits)s) AS p (shape, lo, hi, waits)
), kept AS (
    INSERT INTO mpifarm.task_shape (job, lo, hi, shape) SELECT job, lo, hi, shape FROM part
), kept_waiting AS (
    INSERT INTO mpifarm.waiting (job, attempt, shape, lo, hi) SELECT job, 1, shape, lo, hi FROM part WHERE waits
)
INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi) SELECT job, 1, shape, lo, hi FROM part WHERE NOT waits

-- add_needs --
INSERT INTO mpifarm.need (job, lo, hi, parent, parent_lo, parent_hi, any_end)
SELECT %(job)s, n.lo, n.hi, n.parent, n.parent_lo, n.parent_hi, n.any_end <> 0
FROM unnest(%(lo)s, %(hi)s, %(parent)s, %(parent_lo)s, %(parent_hi)s, %(any_end)s)
    AS n (lo, hi, parent, parent_lo, parent_hi, any_end)

-- lock_parents --
-- Nobody records anything of these jobs until the commit (a record counts in `tally`, whose foreign key wants the row):
-- so either we see how a parent ended, or who records it sees who waits for it.
SELECT id, total FROM mpifarm.job WHERE id = ANY(%(jobs)s) ORDER BY id FOR UPDATE

-- gates_of_others --
-- What waits since a submit for tasks of other jobs alone; whatever waits for tasks beside it must wait anyway.
SELECT waiting.id FROM mpifarm.waiting
WHERE waiting.job = %(job)s AND waiting.lo >= %(lo)s
AND NOT EXISTS (
    SELECT FROM mpifarm.need
    WHERE need.job = waiting.job AND need.hi > waiting.lo AND need.lo = (
        SELECT lo FROM mpifarm.need AS nearest WHERE nearest.job = waiting.job AND nearest.lo <= waiting.lo
        ORDER BY lo DESC LIMIT 1
    ) AND need.parent = waiting.job
)

-- lock_gates --
-- Waiting ranges that wait for tasks in what has just been resolved. OFFSET 0: each of these goes through the index, also
-- when the planner believes that `need` is as short as it was before the last submit.
SELECT waiting.id
FROM unnest(%(job)s, %(lo)s, %(hi)s) AS resolved (job, lo, hi)
CROSS JOIN LATERAL (
    SELECT * FROM mpifarm.need
    WHERE int8range((need.parent::bigint << 32) + need.parent_lo, (need.parent::bigint << 32) + need.parent_hi)
    && int8range((resolved.job::bigint << 32) + resolved.lo, (resolved.job::bigint << 32) + resolved.hi)
    OFFSET 0
) AS need
JOIN mpifarm.waiting ON waiting.job = need.job AND waiting.lo >= need.lo AND waiting.lo < need.hi
ORDER BY waiting.id FOR UPDATE OF waiting

-- judge --
-- Of waiting ranges: those whose parents have all ended well become ready; those with a parent that has not are
-- cancelled, and so is whatever waits for them to succeed. A statement after the one that locked them, whose snapshot
-- has whatever was recorded until then. Returns the cancelled, for those who wait for them merely to end, and whether
-- there may be more.
WITH RECURSIVE gate AS MATERIALIZED (
    SELECT waiting.* FROM mpifarm.waiting WHERE id = ANY(%(gates)s)
), bad (id, job, lo, hi, because_job, because_no) AS (
    SELECT gate.id, gate.job, gate.lo, gate.hi, why.parent, why.no
    FROM gate CROSS JOIN LATERAL (
        SELECT parent, no FROM (
            SELECT need.parent, mpifarm.broken(need.parent, need.parent_lo, need.parent_hi) AS no
            FROM mpifarm.need
            WHERE need.job = gate.job AND need.hi > gate.lo AND need.lo = (
                SELECT lo FROM mpifarm.need AS nearest WHERE nearest.job = gate.job AND nearest.lo <= gate.lo
                ORDER BY lo DESC LIMIT 1
            ) AND NOT need.any_end
        ) AS parents WHERE no IS NOT NULL LIMIT 1
    ) AS why
    UNION
    SELECT waiting.id, waiting.job, waiting.lo, waiting.hi, bad.job, greatest(bad.lo, need.parent_lo)
    FROM bad
    CROSS JOIN LATERAL (
        SELECT * FROM mpifarm.need
        WHERE int8range((need.parent::bigint << 32) + need.parent_lo, (need.parent::bigint << 32) + need.parent_hi)
        && int8range((bad.job::bigint << 32) + bad.lo, (bad.job::bigint << 32) + bad.hi) AND NOT need.any_end
        OFFSET 0
    ) AS need
    JOIN mpifarm.waiting ON waiting.job = need.job AND waiting.lo >= need.lo AND waiting.lo < need.hi
), chosen AS MATERIALIZED (
    -- A statement must not take as long as a silent connection is believed. When this is not all of them, nobody is
    -- released: any of the rest may be doomed. The caller comes again with the same ranges.
    SELECT * FROM bad LIMIT :doomed
), doomed AS (
    DELETE FROM mpifarm.waiting USING (SELECT DISTINCT ON (id) * FROM chosen ORDER BY id) AS why
    WHERE waiting.id = why.id
    RETURNING waiting.*, why.because_job, why.because_no
), told AS (
    INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, shape, because_job, because_no)
    SELECT job, lo, hi, attempt, shape, because_job, because_no FROM doomed
), met AS (
    DELETE FROM mpifarm.waiting USING gate
    WHERE (SELECT count(*) FROM chosen) < :doomed
    AND waiting.id = gate.id AND NOT EXISTS (SELECT FROM chosen WHERE chosen.id = gate.id)
    AND NOT EXISTS (
        SELECT FROM mpifarm.need
        WHERE need.job = gate.job AND need.hi > gate.lo AND need.lo = (
                SELECT lo FROM mpifarm.need AS nearest WHERE nearest.job = gate.job AND nearest.lo <= gate.lo
                ORDER BY lo DESC LIMIT 1
            )
        AND mpifarm.unfinished(need.parent, need.parent_lo, need.parent_hi) OFFSET 0
    )
    RETURNING waiting.*
), released AS (
    INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi)
    SELECT job, attempt, shape, lo, hi FROM met
)
SELECT job, lo, hi, (SELECT count(*) FROM chosen) = :doomed FROM doomed

-- over_max_fails --
SELECT job.id FROM mpifarm.job
WHERE job.id = ANY(%(jobs)s) AND max_fails < (SELECT sum(failed) FROM mpifarm.tally WHERE tally.job = job.id)

-- copy_tasks --
COPY mpifarm.task (job, no, body, entry) FROM STDIN (FORMAT BINARY)

-- make_staging --
-- Tasks on their way in that may be known already.
CREATE TEMPORARY TABLE staged (job integer, no integer, body bytea, entry bytea) ON COMMIT DROP

-- make_staging_shapes --
CREATE TEMPORARY TABLE staged_shape (lo integer PRIMARY KEY, hi integer, shape integer, waits boolean) ON COMMIT DROP

-- make_staging_needs --
CREATE TEMPORARY TABLE staged_need (
    lo integer, hi integer, parent integer, parent_lo integer, parent_hi integer, any_end boolean
) ON COMMIT DROP

-- make_staging_kept --
CREATE TEMPORARY TABLE staged_kept (staged integer PRIMARY KEY, no integer NOT NULL) ON COMMIT DROP

-- make_staging_out --
CREATE TEMPORARY TABLE staged_out (
    staged integer PRIMARY KEY, why smallint NOT NULL, job integer NOT NULL, no integer NOT NULL
) ON COMMIT DROP

-- copy_staged --
COPY pg_temp.staged (job, no, body, entry) FROM STDIN (FORMAT BINARY)

-- add_staged_shapes --
INSERT INTO pg_temp.staged_shape (lo, hi, shape, waits)
SELECT p.lo, p.hi, p.shape, p.waits <> 0
FROM unnest(%(shape)s, %(lo)s, %(hi)s, %(waits)s) AS p (shape, lo, hi, waits)

-- add_staged_needs --
INSERT INTO pg_temp.staged_need (lo, hi, parent, parent_lo, parent_hi, any_end)
SELECT n.lo, n.hi, n.parent, n.parent_lo, n.parent_hi, n.any_end <> 0
FROM unnest(%(lo)s, %(hi)s, %(parent)s, %(parent_lo)s, %(parent_hi)s, %(any_end)s)
    AS n (lo, hi, parent, parent_lo, parent_hi, any_end)

-- keep_needs --
-- Those that stay keep their order, so a range of them is one again. For parents that were left out see `need_left_out`.
INSERT INTO mpifarm.need (job, lo, hi, parent, parent_lo, parent_hi, any_end)
SELECT %(job)s, child.lo, child.hi, sn.parent, coalesce(mother.lo, sn.parent_lo), coalesce(mother.hi, sn.parent_hi), sn.any_end
FROM pg_temp.staged_need AS sn
CROSS JOIN LATERAL (
    SELECT min(no) AS lo, max(no) + 1 AS hi FROM pg_temp.staged_kept WHERE staged >= sn.lo AND staged < sn.hi
) AS child
LEFT JOIN LATERAL (
    SELECT min(no) AS lo, max(no) + 1 AS hi FROM pg_temp.staged_kept WHERE staged >= sn.parent_lo AND staged < sn.parent_hi
) AS mother ON sn.parent = %(job)s AND sn.parent_lo > %(before)s
WHERE child.lo IS NOT NULL AND (sn.parent <> %(job)s OR sn.parent_lo <= %(before)s OR mother.lo IS NOT NULL)

-- need_left_out --
-- Parents that were left out have succeeded, or are waited for where they are.
INSERT INTO mpifarm.need (job, lo, hi, parent, parent_lo, parent_hi, any_end)
SELECT %(job)s, child.lo, child.hi, mother.job, mother.lo, mother.hi, sn.any_end
FROM pg_temp.staged_need AS sn
CROSS JOIN LATERAL (
    SELECT min(no) AS lo, max(no) + 1 AS hi FROM pg_temp.staged_kept WHERE staged >= sn.lo AND staged < sn.hi
) AS child
CROSS JOIN LATERAL (
    SELECT job, min(no) AS lo, max(no) + 1 AS hi FROM (
        SELECT DISTINCT job, no, no - dense_rank() OVER (PARTITION BY job ORDER BY no) AS island
        FROM pg_temp.staged_out WHERE staged >= sn.parent_lo AND staged < sn.parent_hi AND why > 0
    ) AS numbered
    GROUP BY job, island
) AS mother
WHERE child.lo IS NOT NULL AND sn.parent = %(job)s AND sn.parent_lo > %(before)s
RETURNING parent

-- analyze_staged --
ANALYZE pg_temp.staged

-- lock_screening --
-- Of two submits that leave out what is known here, the second sees what the first brings.
SELECT pg_advisory_xact_lock(hashtextextended(encode(%(cwd)s, 'hex'), 1836085095))

-- leave_out --
-- Those known in this directory: they have succeeded (0), or are queued (1); on request also what has ended badly (2).
-- Digests of command and entry, so that what is hashed stays small.
INSERT INTO pg_temp.staged_out (staged, why, job, no)
WITH here AS MATERIALIZED (
    SELECT id FROM mpifarm.job WHERE cwd = %(cwd)s
), place AS (
    SELECT outcome.job, outcome.no, CASE state WHEN 0 THEN 0 ELSE 2 END AS why
    FROM here JOIN mpifarm.outcome ON outcome.job = here.id WHERE state = 0 OR %(once)s
    UNION ALL
    SELECT part.job, part.no, part.why FROM here CROSS JOIN LATERAL (
        SELECT job, generate_series(lo, hi - 1) AS no, 1 AS why FROM mpifarm.ready WHERE ready.job = here.id
        UNION ALL
        SELECT job, generate_series(lo, hi - 1), 1 FROM mpifarm.waiting WHERE waiting.job = here.id
        UNION ALL
        SELECT job, generate_series(lo, hi - 1), 2 FROM mpifarm.cancelled WHERE cancelled.job = here.id AND %(once)s
    ) AS part
    UNION ALL
    SELECT lease.job, own.no, 1
    FROM here JOIN mpifarm.lease ON lease.job = here.id CROSS JOIN LATERAL generate_series(lo, hi - 1) AS own (no)
    WHERE NOT EXISTS (SELECT FROM mpifarm.outcome WHERE outcome.job = lease.job AND outcome.no = own.no)
    AND NOT EXISTS (SELECT FROM mpifarm.past WHERE past.lease = lease.id AND past.lo <= own.no AND own.no < past.hi)
), known AS MATERIALIZED (
    SELECT digest, bool_or(why = 0) AS succeeded, min(place) FILTER (WHERE why = 1) AS queued, min(place) AS place
    FROM (
        SELECT sha256(int4send(octet_length(task.body)) || task.body || coalesce('\x01'::bytea || task.entry, '')) AS digest, why, (place.job::bigint << 32) + place.no AS place
        FROM place JOIN mpifarm.task ON task.job = place.job AND task.no = place.no
    ) AS digested
    GROUP BY digest
)
SELECT staged.no, CASE WHEN succeeded THEN 0 WHEN queued IS NOT NULL THEN 1 ELSE 2 END,
    (coalesce(queued, place) >> 32)::integer, (coalesce(queued, place) & 4294967295)::integer
FROM pg_temp.staged
JOIN known ON known.digest = sha256(int4send(octet_length(staged.body)) || staged.body || coalesce('\x01'::bytea || staged.entry, ''))

-- left_out --
SELECT left_out.why, job.name, left_out.count FROM (
    SELECT why, CASE WHEN why > 0 THEN job END AS job, count(*) FROM pg_temp.staged_out GROUP BY 1, 2
) AS left_out LEFT JOIN mpifarm.job ON job.id = left_out.job
ORDER BY left_out.why, job.id

-- keep_unknown --
-- Numbers the others.
INSERT INTO pg_temp.staged_kept (staged, no)
SELECT no, %(before)s + row_number() OVER (ORDER BY no)
FROM pg_temp.staged WHERE NOT EXISTS (SELECT FROM pg_temp.staged_out WHERE staged_out.staged = staged.no)

-- add_staged_tasks --
WITH added AS (
    INSERT INTO mpifarm.task (job, no, body, entry)
    SELECT staged.job, kept.no, staged.body, staged.entry
    FROM pg_temp.staged JOIN pg_temp.staged_kept AS kept ON kept.staged = staged.no
    RETURNING octet_length(body) AS bytes
)
SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM added

-- add_staged_ready --
WITH shaped AS (
    SELECT kept.no, shape.shape, CASE WHEN shape.waits THEN shape.lo END AS together
    FROM pg_temp.staged_kept AS kept
    CROSS JOIN LATERAL (
        SELECT lo, shape, waits FROM pg_temp.staged_shape AS s WHERE s.lo <= kept.staged ORDER BY s.lo DESC LIMIT 1
    ) AS shape
), part AS (
    SELECT %(job)s::integer AS job, shape, min(no) AS lo, max(no) + 1 AS hi, together IS NOT NULL AS waits
    FROM (
        SELECT *, no - row_number() OVER (PARTITION BY shape, together ORDER BY no) AS island FROM shaped
    ) AS numbered
    GROUP BY shape, together, island
), kept AS (
    INSERT INTO mpifarm.task_shape (job, lo, hi, shape) SELECT job, lo, hi, shape FROM part
), kept_waiting AS (
    INSERT INTO mpifarm.waiting (job, attempt, shape, lo, hi) SELECT job, 1, shape, lo, hi FROM part WHERE waits
)
INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi) SELECT job, 1, shape, lo, hi FROM part WHERE NOT waits

-- lock_adding --
-- One submit at a time adds to a job; `set`, `retry` and `cancel` need not wait for it.
SELECT pg_advisory_xact_lock(1836085094, %(job)s)

-- job_size --
SELECT total, cwd, name FROM mpifarm.job WHERE id = %(job)s

-- grow_job --
UPDATE mpifarm.job
SET total = total + %(tasks)s,
    mean_bytes = greatest(1, (mean_bytes * total + %(body_bytes)s) / (total::bigint + %(tasks)s))
WHERE id = %(job)s

-- note_submission --
INSERT INTO mpifarm.submission (job, lo, hi, path, digest) VALUES (%(job)s, %(lo)s, %(hi)s, %(path)s, %(digest)s)

-- submitted_before --
SELECT job.name FROM mpifarm.submission JOIN mpifarm.job ON job.id = submission.job
WHERE submission.digest = %(digest)s AND submission.path = %(path)s
ORDER BY submission.submitted DESC, submission.lo DESC

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

-- retry, rerun --
-- Outcomes become attempts of the past and their tasks ready again, some of them at a time, in order.
WITH chosen AS MATERIALIZED (
    SELECT no FROM mpifarm.outcome
    WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s
    AND state <> 0 -- only retry
    AND state = ANY(%(states)s) AND failure = ANY(%(failures)s)
    ORDER BY no LIMIT %(retried)s
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
    SELECT taken.job, taken.no, taken.attempt, its.shape, need.lo AS need_lo
    FROM taken CROSS JOIN LATERAL (
        SELECT shape FROM mpifarm.task_shape AS t
        WHERE t.job = taken.job AND t.lo <= taken.no ORDER BY t.lo DESC LIMIT 1
    ) AS its
    LEFT JOIN LATERAL (
        SELECT lo, hi FROM mpifarm.need WHERE need.job = taken.job AND need.lo <= taken.no ORDER BY need.lo DESC LIMIT 1
    ) AS need ON taken.no < need.hi
), next AS (
    SELECT job, attempt + 1 AS attempt, shape, min(no) AS lo, max(no) + 1 AS hi, need_lo IS NOT NULL AS waits
    FROM (
        SELECT *, no - row_number() OVER (PARTITION BY attempt, shape, need_lo ORDER BY no) AS island
        FROM shaped
    ) AS numbered
    GROUP BY job, attempt, shape, need_lo, island
), put_back AS (
    INSERT INTO mpifarm.ready (job, attempt, shape, lo, hi)
    SELECT job, attempt, shape, lo, hi FROM next WHERE NOT waits
), wait_again AS (
    INSERT INTO mpifarm.waiting (job, attempt, shape, lo, hi)
    SELECT job, attempt, shape, lo, hi FROM next WHERE waits
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
    INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, shape, cancelled, because_job, because_no)
    SELECT job, part.lo, part.hi, attempt, shape, cancelled, because_job, because_no
    FROM hit CROSS JOIN LATERAL (VALUES (hit.lo, %(lo)s), (%(hi)s, hit.hi)) AS part (lo, hi)
    WHERE part.lo < part.hi
), cut AS (
    SELECT job, greatest(lo, %(lo)s) AS lo, least(hi, %(hi)s) AS hi, attempt, shape FROM hit
), boundary AS (
    -- A run's return may have joined what waited for different parents: it is cut where the needs change.
    SELECT cut.*, edge.at, coalesce(lead(edge.at) OVER (PARTITION BY cut.lo ORDER BY edge.at), cut.hi) AS until
    FROM cut CROSS JOIN LATERAL (
        SELECT cut.lo AS at
        UNION SELECT need.lo FROM mpifarm.need WHERE need.job = cut.job AND need.lo > cut.lo AND need.lo < cut.hi
        UNION SELECT need.hi FROM mpifarm.need
            WHERE need.job = cut.job AND need.lo < cut.hi AND need.hi > cut.lo AND need.hi < cut.hi
    ) AS edge
), next AS (
    SELECT boundary.*, EXISTS (
        SELECT FROM mpifarm.need
        WHERE need.job = boundary.job AND need.hi > boundary.at AND need.lo = (
            SELECT lo FROM mpifarm.need AS nearest WHERE nearest.job = boundary.job AND nearest.lo <= boundary.at
            ORDER BY lo DESC LIMIT 1
        )
    ) AS waits FROM boundary
), put_back AS (
    INSERT INTO mpifarm.ready (job, lo, hi, attempt, shape)
    SELECT job, at, until, attempt, shape FROM next WHERE NOT waits
), wait_again AS (
    INSERT INTO mpifarm.waiting (job, lo, hi, attempt, shape)
    SELECT job, at, until, attempt, shape FROM next WHERE waits
)
SELECT coalesce(sum(hi - lo), 0)::integer FROM cut

-- revive_dependants --
-- What was cancelled because of tasks of [lo, hi) that have not ended badly any more, and because of those in turn.
WITH RECURSIVE back (job, lo, hi) AS (
    SELECT cancelled.job, cancelled.lo, cancelled.hi FROM mpifarm.cancelled
    WHERE because_job = %(job)s AND because_no >= %(lo)s AND because_no < %(hi)s
    AND mpifarm.broken(because_job, because_no, because_no + 1) IS NULL
    UNION
    SELECT cancelled.job, cancelled.lo, cancelled.hi
    FROM back JOIN mpifarm.cancelled
        ON cancelled.because_job = back.job AND cancelled.because_no >= back.lo AND cancelled.because_no < back.hi
), hit AS (
    DELETE FROM mpifarm.cancelled USING back WHERE cancelled.job = back.job AND cancelled.lo = back.lo
    RETURNING cancelled.*
), wait_again AS (
    INSERT INTO mpifarm.waiting (job, lo, hi, attempt, shape)
    SELECT job, lo, hi, attempt, shape FROM hit
    RETURNING id, lo, hi
)
SELECT coalesce(sum(hi - lo), 0)::integer, coalesce(array_agg(id), '{}') FROM wait_again

-- gates_of_job --
SELECT id FROM mpifarm.waiting WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s ORDER BY id FOR UPDATE

-- has_dependants --
SELECT EXISTS (
    SELECT FROM mpifarm.need
    WHERE int8range((parent::bigint << 32) + parent_lo, (parent::bigint << 32) + parent_hi)
    && int8range(%(job)s::bigint << 32, (%(job)s::bigint + 1) << 32)
)

-- needed --
SELECT parent.name, need.parent_lo, need.parent_hi, need.any_end,
    NOT mpifarm.unfinished(need.parent, need.parent_lo, need.parent_hi)
FROM mpifarm.need JOIN mpifarm.job AS parent ON parent.id = need.parent
WHERE need.job = %(job)s AND need.hi > %(no)s AND need.lo = (
    SELECT lo FROM mpifarm.need AS nearest WHERE nearest.job = %(job)s AND nearest.lo <= %(no)s
    ORDER BY lo DESC LIMIT 1
)
ORDER BY need.parent, need.parent_lo

-- needs --
-- A page of what tasks from %(first)s on wait for, in order; rows of one range never on two pages.
SELECT lo, hi, parent_lo, parent_hi, any_end, parent FROM mpifarm.need
WHERE job = %(job)s AND lo > %(past)s AND hi > %(first)s
ORDER BY lo FETCH FIRST %(needs)s ROWS WITH TIES

-- cancel --
-- A lease under way is waited for: a range that it shortened is cancelled as short as it is now.
WITH hit AS (
    DELETE FROM mpifarm.ready WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s RETURNING *
), kept AS (
    INSERT INTO mpifarm.ready (job, lo, hi, attempt, shape, fails, crashes)
    SELECT job, part.lo, part.hi, attempt, shape, fails, crashes
    FROM hit CROSS JOIN LATERAL (VALUES (hit.lo, %(lo)s), (%(hi)s, hit.hi)) AS part (lo, hi)
    WHERE part.lo < part.hi
), hit_waiting AS (
    DELETE FROM mpifarm.waiting WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s RETURNING *
), kept_waiting AS (
    INSERT INTO mpifarm.waiting (job, lo, hi, attempt, shape)
    SELECT job, part.lo, part.hi, attempt, shape
    FROM hit_waiting CROSS JOIN LATERAL (VALUES (hit_waiting.lo, %(lo)s), (%(hi)s, hit_waiting.hi)) AS part (lo, hi)
    WHERE part.lo < part.hi
), gone AS (
    SELECT job, greatest(lo, %(lo)s) AS lo, least(hi, %(hi)s) AS hi, attempt, shape FROM hit
    UNION ALL
    SELECT job, greatest(lo, %(lo)s), least(hi, %(hi)s), attempt, shape FROM hit_waiting
), moved AS (
    INSERT INTO mpifarm.cancelled (job, lo, hi, attempt, shape, because_job)
    SELECT job, lo, hi, attempt, shape, %(because_job)s::integer FROM gone
)
SELECT coalesce(sum(hi - lo), 0)::integer FROM gone

-- ask_to_cancel --
-- The runs that hold tasks of a range end them. Returns the runs, and how many tasks they hold at most.
WITH holding AS (
    SELECT run, sum(least(hi, %(hi)s) - greatest(lo, %(lo)s)) AS tasks FROM mpifarm.lease
    WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s GROUP BY run
), asked AS (
    INSERT INTO mpifarm.request (run, job, lo, hi) SELECT run, %(job)s, %(lo)s, %(hi)s FROM holding
)
SELECT run FROM holding ORDER BY run

-- held_of --
-- Tasks of a range that leases own.
SELECT coalesce(sum(
    least(lease.hi, %(hi)s) - greatest(lease.lo, %(lo)s) - (
        SELECT count(*) FROM (
            SELECT outcome.lease FROM mpifarm.outcome
            WHERE outcome.job = lease.job
            AND outcome.no >= greatest(lease.lo, %(lo)s) AND outcome.no < least(lease.hi, %(hi)s) OFFSET 0
        ) AS o WHERE o.lease = lease.id
    ) - (
        SELECT coalesce(sum(least(past.hi, %(hi)s) - greatest(past.lo, %(lo)s)), 0)
        FROM mpifarm.past WHERE past.lease = lease.id AND past.lo < %(hi)s AND past.hi > %(lo)s
    )
), 0)::integer
FROM mpifarm.lease WHERE lease.job = %(job)s AND lease.lo < %(hi)s AND lease.hi > %(lo)s

-- ask_to_drain --
INSERT INTO mpifarm.request (run, now)
SELECT run.id, %(now)s FROM mpifarm.run JOIN mpifarm.heartbeat ON heartbeat.run = run.id
WHERE run.id = %(run)s AND run.ended IS NULL
AND heartbeat.beat > clock_timestamp() - make_interval(secs => %(lease_s)s)

-- requests --
-- To end tasks, of runs that are no more.
SELECT DISTINCT run, job, lo, hi FROM mpifarm.request WHERE run = ANY(%(runs)s) AND job IS NOT NULL

-- asked_of --
-- Of tasks that a run has just put back: those that it was asked to end under the lease that put them back.
SELECT span.job, greatest(span.lo, request.lo), least(span.hi, request.hi)
FROM unnest(%(job)s, %(lo)s, %(hi)s, %(given)s) AS span (job, lo, hi, given)
JOIN mpifarm.request ON request.run = %(run)s AND request.job = span.job
    AND request.lo < span.hi AND request.hi > span.lo AND extract(epoch FROM request.asked) >= span.given

-- forget_requests --
DELETE FROM mpifarm.request WHERE run = %(run)s

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

-- drop_waiting --
DELETE FROM mpifarm.waiting WHERE job = %(job)s

-- dependants --
-- Other jobs with tasks that wait for tasks of this one.
SELECT DISTINCT job.name FROM mpifarm.need
JOIN mpifarm.waiting ON waiting.job = need.job AND waiting.lo >= need.lo AND waiting.lo < need.hi
JOIN mpifarm.job ON job.id = need.job
WHERE need.job <> %(job)s
AND int8range((parent::bigint << 32) + parent_lo, (parent::bigint << 32) + parent_hi)
    && int8range(%(job)s::bigint << 32, (%(job)s::bigint + 1) << 32)
ORDER BY job.name

-- drop_leases --
DELETE FROM mpifarm.lease WHERE job = %(job)s

-- drop_job --
-- Foreign keys are checked at the end of the statement, when all of it is gone.
WITH task AS (
    DELETE FROM mpifarm.task WHERE job = %(job)s
), task_shape AS (
    DELETE FROM mpifarm.task_shape WHERE job = %(job)s
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
), need AS (
    DELETE FROM mpifarm.need WHERE job = %(job)s
), request AS (
    DELETE FROM mpifarm.request WHERE job = %(job)s
)
DELETE FROM mpifarm.job WHERE id = %(job)s

-- attempts --
-- The last column: what was lost with the same node (put back in one record), itself included.
SELECT attempt, state, failure, exit_code, signal, run, extract(epoch FROM put_back)::double precision,
    CASE WHEN failure = 7 THEN (
        SELECT json_agg(json_build_array(job.name, beside.lo, beside.hi) ORDER BY beside.job, beside.lo)
        FROM mpifarm.past AS beside JOIN mpifarm.job ON job.id = beside.job
        WHERE beside.run = past.run AND beside.failure = 7
        AND beside.put_back BETWEEN past.put_back - interval '1 s' AND past.put_back + interval '1 s'
    ) END
FROM mpifarm.past WHERE job = %(job)s AND lo <= %(no)s AND %(no)s < hi
ORDER BY attempt, put_back

-- taken_back --
-- Attempts of a run that had an outcome until a retry.
SELECT lease, lo, hi FROM mpifarm.past WHERE run = %(run)s AND state <> 3 ORDER BY lease, lo

-- leased_when --
SELECT extract(epoch FROM given)::double precision FROM mpifarm.lease WHERE id = %(lease)s

-- shapes --
SELECT its.lo, its.hi, shape.needs FROM mpifarm.task_shape AS its JOIN mpifarm.shape ON shape.id = its.shape
WHERE its.job = %(job)s AND its.lo < %(hi)s AND its.hi > %(lo)s ORDER BY its.lo

-- ready_needs --
-- Pending tasks of a job by what they need.
SELECT shape.needs, sum(by_shape.tasks)::integer
FROM (
    SELECT shape, sum(least(hi, %(hi)s) - greatest(lo, %(lo)s))::integer AS tasks FROM mpifarm.ready
    WHERE job = %(job)s AND lo < %(hi)s AND hi > %(lo)s GROUP BY shape
) AS by_shape
JOIN mpifarm.shape ON shape.id = by_shape.shape
GROUP BY shape.needs ORDER BY min(shape.id)

-- jobs --
-- A task is in one place only, so those that are in no other are running.
SELECT job.id, job.name, extract(epoch FROM job.submitted)::double precision, job.priority, job.held, job.source,
    job.cwd, job.total, job.tags, waits.count, ready.count, ended.succeeded, ended.failed,
    ended.cancelled + before.cancelled, job.policy, job.max_fails
FROM mpifarm.job
CROSS JOIN LATERAL (
    SELECT coalesce(sum(hi - lo), 0)::integer AS count FROM mpifarm.waiting WHERE waiting.job = job.id
) AS waits
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

-- unmatched --
-- Words of --tags that no job there is has; `*` takes whatever there is.
SELECT word FROM unnest(%(tags)s::text[]) WITH ORDINALITY AS t (word, nth)
WHERE word <> '*' AND NOT EXISTS (
    SELECT FROM mpifarm.job WHERE job.tags ? word
    OR job.tags ->> split_part(word, '=', 1) = substr(word, nullif(strpos(word, '='), 0) + 1)
)
ORDER BY nth

-- tasks --
SELECT no, state, failure, exit_code, signal, seconds, started, node, attempts, command, entry, run, file, file_row,
    lease, attempt, tail, checksum,
    (SELECT name || coalesce('.' || because_no, '') FROM mpifarm.job AS parent WHERE parent.id = because_job),
    processes_left
FROM mpifarm.task_line
WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s AND state = ANY(%(states)s)
ORDER BY no

-- places --
SELECT string_agg(
    int4send(no) || int4send(run) || int8send(file_row) || int8send(lease) || int2send(attempt)
        || int8send(coalesce(checksum::bigint, 1::bigint << 40)), ''::bytea ORDER BY no)
FROM (
    SELECT no, run, file_row, lease, attempt, checksum FROM mpifarm.outcome
    WHERE job = %(job)s AND no >= %(lo)s AND no < %(hi)s AND file_row IS NOT NULL
    ORDER BY no LIMIT %(places)s
) AS window_of

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
        lease, attempt, tail, checksum,
        (SELECT name || coalesce('.' || because_no, '') FROM mpifarm.job AS parent WHERE parent.id = because_job),
        processes_left
    FROM mpifarm.task_line WHERE job = %(job)s AND no = bad.no OFFSET 0
) AS line
WHERE line.state = ANY(%(states)s)
ORDER BY bad.no

-- failures --
SELECT kind.failure, kind.count, kind.example, outcome.exit_code, outcome.signal, outcome.tail, task.entry
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
LEFT JOIN mpifarm.task ON task.job = %(job)s AND task.no = kind.example
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
    sums.busy_s, held.count, extract(epoch FROM run.ends)::double precision, run.jobs, run.tags, run.room,
    run.boot, run.pid_started
FROM mpifarm.run
JOIN mpifarm.heartbeat ON heartbeat.run = run.id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(succeeded), 0)::integer AS succeeded, coalesce(sum(failed), 0)::integer AS failed,
        coalesce(sum(cancelled), 0)::integer AS cancelled, coalesce(sum(returned), 0)::integer AS returned,
        coalesce(sum(busy_s), 0) AS busy_s
    FROM mpifarm.tally
    WHERE tally.run = run.id AND (%(job)s::integer IS NULL OR tally.job = %(job)s)
) AS sums
CROSS JOIN LATERAL (
    -- Less what it has recorded of them: of leases that are worked off piece by piece that can be most.
    SELECT coalesce(sum(
        lease.hi - lease.lo - (
            SELECT count(*) FROM (
                SELECT outcome.lease FROM mpifarm.outcome
                WHERE outcome.job = lease.job AND outcome.no >= lease.lo AND outcome.no < lease.hi OFFSET 0
            ) AS o WHERE o.lease = lease.id
        ) - (SELECT coalesce(sum(past.hi - past.lo), 0) FROM mpifarm.past WHERE past.lease = lease.id)
    ), 0)::integer AS count
    FROM mpifarm.lease WHERE lease.run = run.id AND (%(job)s::integer IS NULL OR lease.job = %(job)s)
) AS held
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
    SELECT lo, hi FROM mpifarm.waiting WHERE job = %(job)s
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
SELECT expected, found FROM steps WHERE expected <> found ORDER BY found
