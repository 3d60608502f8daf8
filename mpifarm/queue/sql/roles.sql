-- Who may do what, for `mpifarm db init --roles`. May be run again at any time by the owner of the tables, and is after
-- every upgrade of a database that has these rights: it says all of them anew.
--
--   mpifarm_submitter   submit, set, retry, rerun, cancel, drain; reads everything
--   mpifarm_runner      run, recover, drain
--   mpifarm_reader      report, tasks, runs, explain, wait; changes nothing
--
-- They are groups without a login: GRANT mpifarm_runner TO somebody. Roles belong to the server, rights to this database.
-- Everything else (upgrade, drop) is for the owner alone.

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['mpifarm_submitter', 'mpifarm_runner', 'mpifarm_reader'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- somebody does the same in another database
        END;
    END LOOP;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA mpifarm FROM mpifarm_submitter, mpifarm_runner, mpifarm_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA mpifarm FROM mpifarm_submitter, mpifarm_runner, mpifarm_reader;
GRANT USAGE ON SCHEMA mpifarm TO mpifarm_submitter, mpifarm_runner, mpifarm_reader;

-- Reading: whoever reports, and whoever submits, sees everything.
GRANT SELECT ON ALL TABLES IN SCHEMA mpifarm TO mpifarm_submitter, mpifarm_reader;

-- Changing: a line per table. A lock (FOR UPDATE, FOR SHARE) wants UPDATE of some column: then it is one that says
-- nothing about whose a task is.
GRANT USAGE ON SEQUENCE mpifarm.job_id_seq TO mpifarm_submitter;
GRANT INSERT, UPDATE (priority, held, tags, total, mean_bytes) ON mpifarm.job TO mpifarm_submitter;
GRANT INSERT ON mpifarm.task TO mpifarm_submitter;
GRANT INSERT ON mpifarm.shape TO mpifarm_submitter;
GRANT INSERT ON mpifarm.task_shape TO mpifarm_submitter;
GRANT INSERT ON mpifarm.submission TO mpifarm_submitter;
GRANT INSERT ON mpifarm.need TO mpifarm_submitter;
GRANT INSERT, DELETE ON mpifarm.ready TO mpifarm_submitter;
GRANT INSERT, DELETE, UPDATE (attempt) ON mpifarm.waiting TO mpifarm_submitter; -- UPDATE: a lock
GRANT INSERT, DELETE ON mpifarm.cancelled TO mpifarm_submitter;
GRANT UPDATE (given) ON mpifarm.lease TO mpifarm_submitter; -- a lock
GRANT DELETE ON mpifarm.outcome TO mpifarm_submitter;
GRANT INSERT ON mpifarm.past TO mpifarm_submitter;
GRANT INSERT ON mpifarm.tally TO mpifarm_submitter;
GRANT INSERT ON mpifarm.request TO mpifarm_submitter;

GRANT SELECT ON mpifarm.meta TO mpifarm_runner;
GRANT SELECT ON mpifarm.job TO mpifarm_runner;
GRANT SELECT ON mpifarm.task TO mpifarm_runner;
GRANT SELECT ON mpifarm.shape TO mpifarm_runner;
GRANT SELECT ON mpifarm.need TO mpifarm_runner;
GRANT SELECT, INSERT, UPDATE (file, ended) ON mpifarm.run TO mpifarm_runner;
GRANT SELECT, INSERT, UPDATE (beat) ON mpifarm.heartbeat TO mpifarm_runner;
GRANT SELECT, INSERT, UPDATE (lo), DELETE ON mpifarm.ready TO mpifarm_runner;
GRANT SELECT, INSERT, UPDATE (attempt), DELETE ON mpifarm.waiting TO mpifarm_runner; -- UPDATE: a lock
GRANT SELECT, INSERT ON mpifarm.cancelled TO mpifarm_runner;
GRANT SELECT, INSERT, UPDATE (given), DELETE ON mpifarm.lease TO mpifarm_runner; -- UPDATE: a lock
GRANT SELECT, INSERT ON mpifarm.outcome TO mpifarm_runner;
GRANT SELECT, INSERT ON mpifarm.past TO mpifarm_runner;
GRANT SELECT, INSERT, DELETE ON mpifarm.tally TO mpifarm_runner;
GRANT SELECT, INSERT, DELETE ON mpifarm.request TO mpifarm_runner;
