"""The setting of Redis: what it reads, what it refuses, and that it keeps its password to itself."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.environment import LOCAL_REDIS, RedisUrl, explain_redis, read_settings
from tests.builders.certificates import make_certificates

PASSWORD = "s3cr3t/@:?#%, \"'"
ENCODED = "s3cr3t%2F%40%3A%3F%23%25%2C%20%22%27"


class Some(BaseSettings):
    """Settings with a Redis among them."""

    model_config = SettingsConfigDict(env_prefix="SHORTLIST_", hide_input_in_errors=True)

    redis_url: RedisUrl = LOCAL_REDIS


def test_every_part_is_read(tmp_path: Path) -> None:
    authority = make_certificates(tmp_path).authority
    url = RedisUrl(f"rediss://web:{ENCODED}@cache.example:7000/3?ssl_ca_certs={authority}")
    assert url.address == "cache.example:7000"
    assert url.connection_kwargs() == {
        "host": "cache.example",
        "port": 7000,
        "db": 3,
        "username": "web",
        "password": PASSWORD,
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(authority),
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache:1/2", "redis://cache:1/2"),
        (f"redis://:{ENCODED}@cache", "redis://:***@cache:6379/0"),
        (f"rediss://web:{ENCODED}@cache/", "rediss://web:***@cache:6379/0"),
    ],
)
def test_its_text_has_no_password(given: str, shown: str) -> None:
    url = RedisUrl(given)
    assert str(url) == repr(url) == f"{url}" == shown
    assert str({"redis": [url]}) == f"{{'redis': [{shown}]}}"
    assert TypeAdapter(RedisUrl).dump_json(url).decode() == f'"{shown}"'
    assert url.get_secret_value() == given


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("cache:6379", "must be redis://"),
        (f"http://:{ENCODED}@cache", "must be redis://"),
        ("redis://", "must be redis://"),
        ("redis://s3cr3t/@cache", "write @ : /"),  # the password of a URL that was not encoded
        ("redis://:s3cr3t/x@cache:6379/0", "write @ : /"),
        ("redis://:s3cr3t#x@cache:6379/0", "write @ : /"),
        ("redis://:s3cr3t?x@cache:6379/0", "write @ : /"),
        ("redis://cache:0", "must be redis://"),
        ("redis://cache:99999", "must be redis://"),
        ("redis://cache/first", "must be redis://"),
        ("redis://ca che", "must be redis://"),
        ("redis://s3cr3t@cache", "redis://:password@host"),
        ("redis://[::1]:6379", "Feast reads no IPv6"),
        ("redis://cache?protocol=3", "nothing else"),
        ("redis://cache?ssl_ca_certs=ca.pem", "for rediss:// alone"),
        ("rediss://cache?ssl_ca_certs=/no/ca.pem", "not there: ssl_ca_certs=/no/ca.pem"),
        ("rediss://cache?ssl_ca_certs=/etc/passwd", "without certificates: ssl_ca_certs=/etc/passwd"),
    ],
)
def test_a_wrong_one_is_refused_in_one_line_that_repeats_none_of_it(
    given: str, why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHORTLIST_REDIS_URL", given)
    with pytest.raises(SystemExit):
        read_settings(Some)
    said = capsys.readouterr().err
    assert said.startswith("settings: SHORTLIST_REDIS_URL: ")
    assert why in said
    assert said.count("\n") == 1
    assert "s3cr3t" not in said
    with pytest.raises(ValidationError) as error:
        Some()
    assert "s3cr3t" not in "".join(traceback.format_exception(error.value))


def test_it_is_copied_pickled_and_compared_with_its_password() -> None:
    url = RedisUrl(f"redis://:{ENCODED}@cache")
    assert pickle.loads(pickle.dumps(url)) == copy.deepcopy(url) == url
    assert url != RedisUrl("redis://:other@cache")
    assert pickle.loads(pickle.dumps(url)).password == PASSWORD


def test_what_to_do_follows_from_what_redis_said() -> None:
    import redis

    assert "user and password in SHORTLIST_REDIS_URL" in explain_redis(redis.AuthenticationError("wrong"))
    assert "must be allowed" in explain_redis(redis.exceptions.NoPermissionError("no"))
    full = redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'")
    assert "raise its maxmemory" in explain_redis(full)
    assert "raise its maxmemory" in explain_redis(redis.ResponseError("OOM command not allowed"))
    assert "ssl_ca_certs" in explain_redis(redis.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED]"))
    assert explain_redis(redis.ConnectionError("refused.")).startswith("refused; start it")


def test_a_url_is_entered_at_another_address_in_the_same_way() -> None:
    url = RedisUrl("redis://me:se%40cret@one:6379/0").at("two:7000")
    assert (url.host, url.port, url.user, url.password, url.database) == ("two", 7000, "me", "se@cret", 0)
    assert RedisUrl("redis://one").at("two:7000").address == "two:7000"
