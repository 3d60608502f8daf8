-- What a task left running behind itself, and was killed, stands with its outcome.

ALTER TABLE mpifarm.outcome ADD COLUMN processes_left smallint CHECK (processes_left > 0);

CREATE OR REPLACE VIEW mpifarm.task_line AS
SELECT
    task.job,
    task.no,
    CASE
        WHEN outcome.state = 0 THEN 'succeeded'
        WHEN outcome.state = 1 THEN 'failed'
        WHEN outcome.state = 2 OR cancelled.attempt IS NOT NULL THEN 'cancelled'
        WHEN ready.attempt IS NOT NULL THEN 'pending'
        WHEN waiting.attempt IS NOT NULL THEN 'waiting'
        ELSE 'running'
    END AS state,
    coalesce(outcome.failure, CASE WHEN cancelled.attempt IS NOT NULL THEN 8 END) AS failure,
    outcome.exit_code,
    outcome.signal,
    outcome.seconds,
    outcome.started,
    run.node_names[outcome.node + 1] AS node,
    coalesce(outcome.attempt, ready.attempt - 1, waiting.attempt - 1, cancelled.attempt - 1, lease.attempt, 0) AS attempts,
    task.body AS command,
    task.entry,
    coalesce(outcome.run, lease.run) AS run,
    run.file,
    outcome.file_row,
    coalesce(outcome.lease, lease.id) AS lease,
    coalesce(outcome.attempt, lease.attempt) AS attempt,
    outcome.tail,
    outcome.checksum,
    cancelled.because_job,
    cancelled.because_no,
    outcome.processes_left
FROM mpifarm.task
LEFT JOIN mpifarm.outcome ON outcome.job = task.job AND outcome.no = task.no
LEFT JOIN LATERAL (
    SELECT r.attempt, r.hi FROM mpifarm.ready AS r
    WHERE outcome.no IS NULL AND r.job = task.job AND r.lo <= task.no
    ORDER BY r.lo DESC LIMIT 1
) AS ready ON task.no < ready.hi
LEFT JOIN LATERAL (
    SELECT w.attempt, w.hi FROM mpifarm.waiting AS w
    WHERE outcome.no IS NULL AND ready.hi IS NULL AND w.job = task.job AND w.lo <= task.no
    ORDER BY w.lo DESC LIMIT 1
) AS waiting ON task.no < waiting.hi
LEFT JOIN LATERAL (
    SELECT c.attempt, c.hi, c.because_job, c.because_no FROM mpifarm.cancelled AS c
    WHERE outcome.no IS NULL AND ready.hi IS NULL AND waiting.hi IS NULL AND c.job = task.job AND c.lo <= task.no
    ORDER BY c.lo DESC LIMIT 1
) AS cancelled ON task.no < cancelled.hi
LEFT JOIN LATERAL (
    SELECT l.id, l.run, l.attempt FROM mpifarm.lease AS l
    WHERE outcome.no IS NULL AND ready.hi IS NULL AND waiting.hi IS NULL AND cancelled.hi IS NULL
    AND l.job = task.job AND l.lo <= task.no AND task.no < l.hi
    ORDER BY l.id DESC LIMIT 1 -- an older lease has given the task back
) AS lease ON true
LEFT JOIN mpifarm.run ON run.id = outcome.run;
