"""Whether an attempt that ended badly runs again, by the policy of its job. Pure.

Only failures of its own count against a task's retries: what walltime or a lost node ended runs again anyway, the
latter until the crash limit says that the task may be what takes its nodes down.
"""

from __future__ import annotations

from mpifarm.core.job.policy import Policy, RetryRule
from mpifarm.core.model import FailureClass


def failed_runs_again(policy: Policy, failure: FailureClass, exit_code: int, signal: int, fails: int) -> bool:
    """`fails`: failed attempts of this task before this one."""
    return fails < retries_after(policy, failure, exit_code, signal)


def retries_after(policy: Policy, failure: FailureClass, exit_code: int, signal: int) -> int:
    """How often such a failure runs again. exit_code, signal: 0 where the process left none."""
    if not policy.rules:
        return policy.retries
    return next((rule.retries for rule in policy.rules if _fits(rule, failure, exit_code, signal)), 0)


def lost_runs_again(policy: Policy, crashes: int) -> bool:
    """`crashes`: nodes the task was lost with, this one included. A rule for lost ones can only lower the limit."""
    if policy.crash_limit and crashes >= policy.crash_limit:
        return False
    return all(crashes <= rule.retries for rule in policy.rules if rule.failure is FailureClass.LOST)


def _fits(rule: RetryRule, failure: FailureClass, exit_code: int, signal: int) -> bool:
    if rule.failure is not failure:
        return False
    return rule.code is None or rule.code == (signal if failure is FailureClass.SIGNAL else exit_code)
