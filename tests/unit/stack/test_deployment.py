"""The deployment files fit together: what compose says, what the images hold, what the dashboard reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.environment import RedisUrl

ROOT = Path(__file__).resolve().parents[3]
PROFILES = ("cpu", "gpu", "train", "batch")
KEYS = f"web:{'0' * 64}"
PASSWORD = "5e" * 24
SECRETS = {"SHORTLIST_API_KEYS": KEYS, "SHORTLIST_REDIS_PASSWORD": PASSWORD}


def run_compose(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHORTLIST_")}
    return subprocess.run(command, capture_output=True, text=True, env=inherited | settings)


def compose(*arguments: str) -> str:
    run = run_compose(*arguments, **SECRETS)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    given = [part for profile in PROFILES for part in ("--profile", profile)]
    resolved: dict[str, Any] = yaml.safe_load(compose(*given, "config"))["services"]
    return resolved


def test_compose_accepts_the_file_and_knows_every_service(services: dict[str, Any]) -> None:
    assert set(services) == {
        *("redis", "training", "export", "triton", "triton-gpu", "gateway", "consumer", "batch"),
        *("observer", "prometheus", "grafana"),
    }


def test_what_compose_serves_to_everyone_has_passed_the_gate(services: dict[str, Any]) -> None:
    head = (ROOT / "docker-compose.yml").read_text().partition("\nservices:")[0]
    assert re.findall(r"serve promote.*", head) == ['serve promote"'], "what the link names, by no name"
    training = (ROOT / services["training"]["build"]["dockerfile"]).read_text()
    assert "&& python -m training promote &&" in training, "where alone the link is moved"


def test_the_gateway_gets_its_keys_from_the_environment_and_does_not_start_without(
    services: dict[str, Any],
) -> None:
    assert services["gateway"]["environment"]["SHORTLIST_API_KEYS"] == KEYS
    run = run_compose("config", SHORTLIST_REDIS_PASSWORD=PASSWORD)
    assert run.returncode != 0
    assert "set it, in .env or the environment, to what python -m service.api_keys NAME prints" in run.stderr


@pytest.mark.parametrize(("profile", "triton"), [("cpu", "triton"), ("gpu", "triton-gpu")])
def test_each_profile_starts_exactly_one_triton(services: dict[str, Any], profile: str, triton: str) -> None:
    started = {name for name, service in services.items() if profile in service.get("profiles", [profile])}
    assert started == {"redis", "gateway", "consumer", "observer", "prometheus", "grafana", triton}
    assert triton == "triton" or services[triton]["networks"]["default"]["aliases"] == ["triton"]


def test_redis_demands_a_password_that_every_role_has_and_no_command_line(services: dict[str, Any]) -> None:
    redis = services["redis"]
    assert redis["environment"]["REDISCLI_AUTH"] == PASSWORD, "by which the health check enters"
    assert "requirepass" in " ".join(redis["command"])
    assert "docker-entrypoint.sh redis-server" in " ".join(redis["command"]), "it loads the modules"
    for name, service in services.items():
        assert PASSWORD not in " ".join(service.get("command") or []), name
        if "SHORTLIST_VAR_DIR" in service.get("environment", {}):
            url = RedisUrl(service["environment"]["SHORTLIST_REDIS_URL"])
            assert (url.address, url.password) == ("redis:6379", PASSWORD), name
    run = run_compose("config", SHORTLIST_API_KEYS=KEYS)
    assert run.returncode != 0
    assert "to what openssl rand -hex 24 prints" in run.stderr


def test_the_redis_health_check_demands_the_search_module(services: dict[str, Any]) -> None:
    redis = services["redis"]
    assert redis["image"].startswith("redis:8")
    assert "MODULE LIST" in " ".join(redis["healthcheck"]["test"])
    assert "search" in " ".join(redis["healthcheck"]["test"])


@pytest.mark.parametrize("name", ["triton", "triton-gpu"])
def test_triton_is_healthy_only_while_it_makes_slates_and_is_replaced_otherwise(
    services: dict[str, Any], name: str
) -> None:
    lines = (ROOT / services[name]["build"]["dockerfile"]).read_text().partition("HEALTHCHECK")[2]
    assert '"ensemble.triton.probe"]' in lines
    assert 'CMD ["python", "-m", "ensemble.triton.watch", "tritonserver", ' in lines
    assert services[name]["restart"] == "unless-stopped"


def test_the_schedule_is_a_service_of_its_own_and_may_end_its_run(services: dict[str, Any]) -> None:
    batch = services["batch"]
    text = (ROOT / batch["build"]["dockerfile"]).read_text()
    assert 'CMD ["python", "-m", "batch", "schedule"]' in text
    assert "/locks/batch.txt" in text
    assert batch["environment"]["SHORTLIST_BATCH_CRON"] == "0 3 * * *"
    assert batch["environment"]["SHORTLIST_REDIS_URL"] == f"redis://:{PASSWORD}@redis:6379/0"
    schedule = (ROOT / "batch" / "schedule" / "schedule.py").read_text()
    grace_s = float(re.findall(r"^GRACE_S = ([\d.]+)$", schedule, flags=re.MULTILINE)[0])
    assert float(batch["stop_grace_period"].removesuffix("s")) > grace_s
    assert batch["restart"] == "unless-stopped"
    assert [str(volume).split(":")[0] for volume in batch["volumes"]] == ["var"]
    run = run_compose("--profile", "batch", "config", **SECRETS, SHORTLIST_BATCH_CRON="5 * * * *")
    resolved = yaml.safe_load(run.stdout)["services"]
    assert resolved["batch"]["environment"]["SHORTLIST_BATCH_CRON"] == "5 * * * *"


def test_every_image_is_pinned_and_every_port_is_on_loopback(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" not in service:
            tag = service["image"].partition(":")[2]
            assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']} may change under us"
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name}: {port}"


def test_every_build_has_its_dockerfile_and_runs_as_a_user(services: dict[str, Any]) -> None:
    built = {name: service["build"] for name, service in services.items() if "build" in service}
    assert len({build["dockerfile"] for build in built.values()}) == 4
    for build in built.values():
        lines = (ROOT / build["dockerfile"]).read_text().splitlines()
        words = [line.split()[0] for line in lines if line and not line.startswith((" ", "#"))]
        assert "HEALTHCHECK" in words
        assert [line for line in lines if line.startswith("USER ")] == ["USER shortlist"]


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE))
    for dockerfile in (ROOT / "deploy" / "docker").glob("*.Dockerfile"):
        for line in dockerfile.read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists(), f"{dockerfile.name}: {source}"
                    assert source.split("/")[0] in allowed, f"{dockerfile.name}: {source} is ignored"


@pytest.mark.parametrize(
    ("image", "package"), [("triton", "ensemble"), ("triton", "live"), ("batch", "batch")]
)
def test_the_image_holds_every_module_that_its_package_imports(image: str, package: str) -> None:
    copied = (ROOT / "deploy" / "docker" / f"{image}.Dockerfile").read_text()
    ours = re.compile(
        r"^\s*(?:from|import) (contract|ensemble|live|batch|training|service|feature_repo)\b", re.MULTILINE
    )
    for module in sorted((ROOT / package).rglob("*.py")):
        for name in ours.findall(module.read_text()):
            assert f"COPY {name} {name}" in copied, f"{module.name} imports {name}"


def test_the_dashboard_and_the_alerts_read_only_metrics_that_exist() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "shortlist.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    read = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    read += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    files = (ROOT / "service" / "metrics.py", ROOT / "live" / "watch.py")
    made = {name for file in files for name in re.findall(r'"(shortlist_\w+)"', file.read_text())}
    used = set(re.findall(r"shortlist_\w+", " ".join(read)))
    assert len(used) > 4
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used} <= made
    assert dashboard["uid"] == "shortlist"


def test_every_alert_fires_where_something_is_wrong_and_none_where_all_is_well() -> None:
    """Prometheus' own program computes it where it is installed (Debian's package prometheus)."""
    folder = ROOT / "deploy" / "prometheus"
    rules, tested = (yaml.safe_load((folder / name).read_text()) for name in ("rules.yml", "rules_test.yml"))
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    (ill,) = (one for one in tested["tests"] if "wrong" in one["name"])
    fired = [one["labels"] for one in ill["promql_expr_test"][0]["exp_samples"]]
    assert fired == [f'{{alertname="{name}"}}' for name in alerts], "one is not in rules_test.yml"
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "test", "rules", "rules_test.yml"], cwd=folder, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_lock_names_an_index() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, f"{lock.name} names an address"
        assert "--index-url" not in text, lock.name
        assert "--hash=sha256:" in text, lock.name
