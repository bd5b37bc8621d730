"""What is shipped to run a collector fits what a collector is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

import indelible
from indelible.cli.application import app
from indelible.collector.scrub import Scrubber
from indelible.collector.state import Collector, Settings
from indelible.producer import KIND as PRODUCER
from indelible.producer import Producer, key_of
from indelible.rights import Caller
from tests.collector.server import Authority, Server

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "collector.json"
UNIT = DEPLOY / "indelible-collector.service"

_NAME = re.compile(r"\b(?:indelible|process)_[a-z0-9_]+\b")
_SELECTOR = re.compile(r"\b((?:indelible|process)_[a-z0-9_]+)\{([^}]*)\}")
_BY = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_SCRAPED = {"job", "instance"}
"""Labels that Prometheus itself adds."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of all metrics that a collector shows, each with its labels."""
    home = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(home))
        with indelible.open(home / "trail") as trail:
            collector = Collector(trail, Settings(scrub_every=1))
            now = collector.now()
            producer = Producer(
                origin="audit.example.com/shop/user",
                key="",
                stream="user",
                enrolled_at=now,
                enrolled_by="alice",
            )
            with trail.store.write() as transaction:
                transaction.put(PRODUCER, key_of(producer.origin), producer.to_bytes())
            collector.metrics.requested("GET", "/health/live", 200, 0.001)
            siem = Caller(id="0123456789abcdef", name="siem", role="reader")
            collector.metrics.followed(siem, "user", behind=1, now=now)
            scrubber = Scrubber(collector)
            while scrubber.step().log:
                pass
            text, _ = collector.metrics.exposed("")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    """Return what the alert rules, and the panels of the dashboard, ask for."""
    found = [rule["expr"] for rule in rules()]
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found + [target["expr"] for panel in panels for target in panel.get("targets", ())]


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


# ---- Prometheus and Grafana ----


@pytest.mark.parametrize(
    "command", [("check", "rules", RULES), ("test", "rules", "alerts_test.yml")]
)
def test_alerts_fire_when_they_should_and_else_not(command: tuple[str, ...]) -> None:
    """Prometheus' own tool takes the rules, and finds that each does what its test says."""
    done = subprocess.run(
        ["promtool", *map(str, command)],  # noqa: S607 - as `make system` installs it
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """No alert goes out that has not been seen to fire."""
    tested = yaml.safe_load((RULES.parent / "alerts_test.yml").read_text("utf-8"))["tests"]

    assert sorted(rule["alert"] for rule in rules()) == sorted(test["name"] for test in tested)


def test_alerts_and_panels_ask_for_what_there_is(shown: dict[str, set[str]]) -> None:
    """A metric or a label that no collector shows would be an alert that never comes."""
    for expression in expressions():
        names = set(_NAME.findall(expression))
        labels = {label for name in names for label in shown.get(name, ())} | _SCRAPED
        assert set() == names - shown.keys(), expression
        for name, inside in _SELECTOR.findall(expression):
            assert set(re.findall(r"(\w+)\s*=", inside)) <= shown[name] | _SCRAPED, expression
        for grouped in _BY.findall(expression):
            assert set(re.findall(r"\w+", grouped)) <= labels, expression


def test_every_metric_is_documented(shown: dict[str, set[str]]) -> None:
    """The reference names each metric with its labels, and none that there is not."""
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ?([^|]*)\|", text, re.MULTILINE)
    documented = {
        name + ("_count" if kind == "histogram" else ""): set(re.findall(r"\w+", labels))
        for name, kind, labels in rows
    }

    assert documented == {
        name: labels
        for name, labels in shown.items()
        if not name.endswith(("_created", "_bucket", "_sum"))
    }


# ---- How it is run ----


def unit() -> dict[str, list[str]]:
    """Return what the unit says, by the names of its directives."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, separator, value = line.partition("=")
            assert separator, line
            found.setdefault(name, []).append(value)
    return found


def compose() -> dict[str, Any]:
    """Return what the file for Compose says."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line]


def commands() -> dict[str, list[str]]:
    """Return how each of them begins the collector."""
    (start,) = unit()["ExecStart"]
    (image,) = [json.loads(value) for name, value in instructions() if name == "CMD"]
    return {
        "systemd": shlex.split(start)[1:],
        "image": image,
        "compose": compose()["services"]["collector"]["command"],
    }


@pytest.mark.parametrize("how", ["systemd", "image", "compose"])
def test_it_is_begun_with_options_that_there_are(how: str) -> None:
    """The command that each of them runs is one that the command line takes."""
    name, *options = commands()[how]
    command: Any = get_command(app)

    found = command.commands[name].make_context(name, options).params

    assert found["certificate"]
    assert found["key"]
    assert (found["host"], found["port"]) == ("0.0.0.0", 8443)  # noqa: S104 - as it is shipped


def test_the_unit_gives_away_no_more_than_it_needs() -> None:
    """The service has a user of its own, no capability, and may write in its state alone."""
    found = unit()

    wanted = {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "MemoryDenyWriteExecute": "yes",
        "RestrictSUIDSGID": "yes",
        "RestrictNamespaces": "yes",
        "SystemCallArchitectures": "native",
        "LimitCORE": "0",
        "UMask": "0077",
        "StateDirectoryMode": "0700",
        "Restart": "on-failure",
    }
    assert wanted == {name: found[name][0] for name in wanted}
    assert ["@system-service", "~@privileged @resources"] == found["SystemCallFilter"]
    assert {"tls.crt", "tls.key"} == {each.split(":")[0] for each in found["LoadCredential"]}
    assert "ReadWritePaths" not in found
    assert not any("PASSWORD" in each.upper() for each in found["Environment"])


def test_no_password_stands_in_the_compose_file() -> None:
    """Secrets are files that whoever runs it makes, and none has a default."""
    found = compose()

    assert {"postgres-password", "pgpass", "tls.crt", "tls.key"} == set(found["secrets"])
    assert all(each["file"].startswith("./secrets/") for each in found["secrets"].values())
    for service in found["services"].values():
        assert set(service["secrets"]) <= set(found["secrets"])
        for name, value in service["environment"].items():
            if re.search("PASS|SECRET|KEY|TOKEN", name):
                assert value.startswith("/run/secrets/"), name
    assert "secrets/" in (DEPLOY / ".gitignore").read_text("utf-8").splitlines()
    assert not re.search(r"://[^/\s]*:[^/\s]*@", (DEPLOY / "compose.yaml").read_text("utf-8"))


def test_the_container_may_do_no_more_than_it_needs() -> None:
    """Its file system is read-only, it has no capability, and nobody else reaches the database."""
    found = compose()
    collector, database = found["services"]["collector"], found["services"]["postgresql"]

    assert collector["read_only"]
    assert ["ALL"] == collector["cap_drop"]
    assert ["no-new-privileges:true"] == collector["security_opt"]
    assert "ports" not in database
    assert ["database"] == database["networks"]
    assert found["networks"]["database"]["internal"]
    assert "postgres:18" == database["image"]
    assert not {"fsync=off", "synchronous_commit=off"} & set(database["command"])


def test_the_image_is_built_from_what_is_there_and_pinned() -> None:
    """Each file that it copies exists and is let through; each package is taken by its hash."""
    let_through = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()

    for name, value in instructions():
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in let_through, source
        for install in re.findall(r"pip install ([^&]*)", value if name == "RUN" else ""):
            assert "--no-deps" in install
            assert "--require-hashes" in install or "dist/*.whl" in install
    assert ("USER", "10001:10001") in instructions()
    assert any(name == "HEALTHCHECK" for name, _ in instructions())


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_the_image_has_the_versions_that_are_tested(name: str) -> None:
    """What is locked for the image is locked for the tests, each package with its hashes."""

    def locked(path: Path) -> dict[str, str]:
        text = path.read_text("utf-8").replace("\\\n", " ")
        pattern = r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+).*--hash=sha256:"
        return dict(re.findall(pattern, text, re.MULTILINE))

    image, tested = locked(DEPLOY / name), locked(ROOT / "requirements.lock")

    assert image
    assert image.items() <= tested.items()
    text = (DEPLOY / name).read_text("utf-8")
    assert len(image) == len(re.findall(r"^[a-z]", text, re.MULTILINE))


def ask(server: Server) -> subprocess.CompletedProcess[str]:
    """Ask as the image's health check does."""
    return subprocess.run(
        [sys.executable, str(DEPLOY / "ready.py")],
        env={**os.environ, "INDELIBLE_READY_URL": f"{server.url}/health/ready"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_health_check_tells_ready_from_not(tmp_path: Path) -> None:
    """The image counts as healthy while its collector can do its work, and no longer."""
    server = Server(tmp_path / "trail", Authority(tmp_path))
    with server:
        ready = ask(server)
    (tmp_path / "trail" / "keys" / "user.key").unlink()
    with server:
        not_ready = ask(server)
    gone = ask(server)

    assert (0, "") == (ready.returncode, ready.stderr)
    assert 1 == not_ready.returncode
    assert "keys: the signing key of log user" in not_ready.stderr
    assert 1 == gone.returncode
