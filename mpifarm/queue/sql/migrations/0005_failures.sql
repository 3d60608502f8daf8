-- A function may raise: exception.

ALTER TABLE mpifarm.outcome
    DROP CONSTRAINT outcome_failure_check, ADD CONSTRAINT outcome_failure_check CHECK (failure BETWEEN 0 AND 9);
ALTER TABLE mpifarm.past
    DROP CONSTRAINT past_failure_check, ADD CONSTRAINT past_failure_check CHECK (failure BETWEEN 0 AND 9);
