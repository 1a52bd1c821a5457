"""The container as it is written down: as nobody, read-only, without rights, within limits, by hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cxr_assistant.settings import PROJECT_ROOT

pytestmark = pytest.mark.requirement("A5")


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (PROJECT_ROOT / "Dockerfile").read_text("utf-8")


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    services = yaml.safe_load((PROJECT_ROOT / "compose.yaml").read_text("utf-8"))["services"]
    assert list(services) == ["cxr-assistant"]
    return dict(services["cxr-assistant"])


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n( #.*\n)?", " ", dockerfile)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_base_image_is_named_by_digest(dockerfile: str) -> None:
    found = dict(instructions(dockerfile)[:1])
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.1\d-slim-\w+@sha256:[0-9a-f]{64}", found["ARG"])
    bases = [rest.split()[0] for name, rest in instructions(dockerfile) if name == "FROM"]
    assert set(bases) == {"${PYTHON_IMAGE}"}


def test_packages_are_installed_by_hash_and_never_built(dockerfile: str) -> None:
    installs = [rest for name, rest in instructions(dockerfile) if name == "RUN" and "pip install" in rest]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0] and "--only-binary :all:" in installs[0]
    assert "-r /tmp/requirements.lock" in installs[0]


def test_the_image_runs_as_nobody_and_without_a_shell(dockerfile: str) -> None:
    last = instructions(dockerfile)[[name for name, _ in instructions(dockerfile)].index("FROM") + 1 :]
    found = dict(last)
    assert found["USER"] == "10001:10001"
    assert found["ENTRYPOINT"].startswith("[") and found["CMD"].startswith("[")
    assert "CMD [" in found["HEALTHCHECK"]
    assert {name for name, _ in last} & {"ADD", "VOLUME"} == set()


def test_the_image_holds_no_secret_and_no_seed(dockerfile: str) -> None:
    assert "hash_seed.txt -delete" in dockerfile
    assert re.search(r"(?i)token|password|secret", re.sub(r"#.*", "", dockerfile)) is None


def test_everything_that_is_copied_exists_and_nothing_else_is_sent(dockerfile: str) -> None:
    copies = [
        rest.split() for name, rest in instructions(dockerfile) if name == "COPY" and "--from" not in rest
    ]
    sources = {source for *names, _ in copies for source in names}
    assert [source for source in sources if not (PROJECT_ROOT / source).exists()] == []
    ignored = (PROJECT_ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored and kept == sources


def test_the_service_has_no_rights_and_a_read_only_root(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileges") and "privileged" not in service and "devices" not in service


def test_the_service_has_limits(service: dict[str, Any]) -> None:
    assert 0 < service["pids_limit"] <= 512
    assert service["mem_limit"] == service["memswap_limit"]
    assert service["ulimits"]["core"] == 0
    (tmp,) = service["tmpfs"]
    path, _, options = tmp.partition(":")
    assert path == "/tmp" and {"noexec", "nosuid", "nodev"} <= set(options.split(","))


def test_the_service_is_published_on_loopback_alone_and_asks_for_a_login(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"]["CXR_PROFILE"] == "onprem"
    assert service["environment"]["CXR_USERS_FILE"].startswith("/run/secrets/")
    assert not any(isinstance(v, str) and "docker.sock" in v for v in service["volumes"])


def has_engine() -> bool:
    if shutil.which("docker") is None:
        return False
    answer = subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False)
    return answer.returncode == 0


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(3600)
def test_the_container_runs_as_nobody_and_cannot_write(tmp_path: Path) -> None:
    if not has_engine():
        pytest.skip("no container engine is running on this machine")
    tag = "cxr-assistant:test"
    subprocess.run(["docker", "build", "-q", "-t", tag, str(PROJECT_ROOT)], check=True, capture_output=True)
    look = (
        "import os; print(os.getuid())\n"
        "try: open('/app/x', 'w')\n"
        "except OSError as e: print(e.errno in (13, 30))\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'NoNewPrivs'))])"
    )
    run = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL"]
    run += ["--security-opt=no-new-privileges", "--network=none", "--entrypoint", "python", tag, "-c", look]
    seen = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split("\n")
    assert seen[:3] == ["10001", "True", "['0000000000000000', '1']"]
