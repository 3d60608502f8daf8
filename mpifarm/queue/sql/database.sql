-- Statements about the database rather than the work in it, by name: its queue's version, who owns it, who may come in.

-- no_jit --
-- Compiling a plan costs more than any statement here takes; a generic one is what they were written for. Behind a pooler
-- the session that answers is not the one that was opened, and others' transactions come after ours: nothing is left in it.
SELECT pg_backend_pid() = %(opened)s, CASE WHEN pg_backend_pid() = %(opened)s THEN set_config('jit', 'off', false) END

-- version_lock --
SELECT pg_advisory_xact_lock(%(lock)s)

-- is_there --
-- Not to_regclass: it answers from a cache that may not have heard yet of what another session has just made.
SELECT 1 FROM pg_namespace WHERE nspname = 'mpifarm'

-- version --
SELECT version FROM mpifarm.meta

-- upgraded --
UPDATE mpifarm.meta SET version = %(version)s

-- owner --
SELECT pg_get_userbyid(nspowner), pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'mpifarm'

-- roles_there --
SELECT rolname FROM pg_roles WHERE rolname = ANY(%(roles)s)

-- may_make_roles --
SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user

-- has_rights --
SELECT EXISTS (
    SELECT FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS acl
    JOIN pg_roles ON pg_roles.oid = acl.grantee
    WHERE n.nspname = 'mpifarm' AND pg_roles.rolname = ANY(%(roles)s)
)

-- server --
SELECT extract(epoch FROM pg_postmaster_start_time())::double precision, count(*)::integer
FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'mpifarm' AND pid <> pg_backend_pid()

-- make_login --
-- What stands in braces, here and below, psycopg puts in, quoted: such statements take no parameters.
CREATE ROLE {role}

-- admit --
ALTER ROLE {role} LOGIN PASSWORD {secret};
GRANT USAGE ON SCHEMA mpifarm TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mpifarm TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA mpifarm TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA mpifarm GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA mpifarm GRANT USAGE ON SEQUENCES TO {role}
