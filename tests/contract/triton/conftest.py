"""One real Redis for the contract tests of the triton role; every test starts with it empty."""

from tests.builders.redis_fixtures import redis, redis_url  # noqa: F401
