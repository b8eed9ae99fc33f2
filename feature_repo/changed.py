"""The keys by which a data set's users are noted as changed, for the batch job that renews their slates."""

from __future__ import annotations


def changed_users_key(dataset: str) -> str:
    """The key of the users who changed since they were last computed: a sorted set, by Unix time, seconds."""
    return f"changed_users:{dataset}"


def batch_runs_key(dataset: str) -> str:
    """The key of the batch runs of a data set; where there is none, nobody has a slate to renew."""
    return f"batch_runs:{dataset}"
