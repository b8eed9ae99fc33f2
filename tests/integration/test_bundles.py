"""Two bundles that meet on real servers: the gateway shows the slates of its own alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import httpx
import pytest

from tests.builders.world import World, eventually

pytestmark = pytest.mark.timeout(900)
OTHER = "other-bundle"


def renamed(bundle: Path, name: str) -> Path:
    """Copies a bundle under another name: the same models, another bundle."""
    other = bundle.resolve().with_name(name)
    shutil.copytree(bundle.resolve(), other)
    popular = json.loads((other / "popular.json").read_text()) | {"bundle": name}
    (other / "popular.json").write_text(json.dumps(popular))
    manifest = json.loads((other / "manifest.json").read_text()) | {"bundle": name}
    manifest["checksums"]["popular.json"] = hashlib.sha256((other / "popular.json").read_bytes()).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest))
    return other


def export(world: World, bundle: Path) -> None:
    """Puts a bundle into Triton, which is restarted; the gateway goes on with its own."""
    for command in ("index", "export"):
        done = world.run("triton", "-m", f"ensemble.publish.{command}", "--bundle", str(bundle))
        assert done.returncode == 0, done.stdout + done.stderr
    world.supervisor.stop("triton")
    world.supervisor.start("triton")


def test_a_triton_with_another_bundle_gives_no_slate_until_it_serves_ours_again(own_stack: World) -> None:
    user, ours = int(own_stack.manifest()["sample_user_ids"][0]), own_stack.manifest()["bundle"]
    bundle = own_stack.settings.bundle.resolve()
    slate = own_stack.recommend(user)
    assert (slate["source"], slate["bundle"]) == ("ensemble", ours)

    export(own_stack, renamed(bundle, OTHER))
    seen: list[tuple[str, ...]] = []

    def is_refused() -> bool:
        answer = own_stack.recommend(user)
        assert answer["source"] == "popular", "no slate of the other bundle, in no moment"
        assert answer["bundle"] == ours
        seen.append(tuple(answer["degraded"]))
        return "ensemble_other_bundle" in answer["degraded"]

    assert eventually(is_refused), seen
    assert "ensemble_other_bundle" in own_stack.recommend(user, explain=True)["degraded"]
    ready = httpx.get(f"{own_stack.url}/readyz", timeout=30.0, trust_env=False)
    assert ready.status_code == 503
    assert f"serves bundle {OTHER}, the gateway {ours}" in ready.json()["dependencies"]["triton"]["detail"]
    text = httpx.get(f"{own_stack.url}/metrics", timeout=30.0, trust_env=False).text
    assert 'shortlist_steps_total{outcome="other_bundle",step="ensemble"}' in text

    export(own_stack, bundle)
    assert eventually(lambda: own_stack.recommend(user)["source"] == "ensemble")
    assert own_stack.recommend(user)["items"] == slate["items"]
