"""Environment and paths: read once, typed, and refused when they make no sense."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cxr_assistant.errors import SettingsError

__all__ = [
    "LANGUAGES",
    "LOOPBACK",
    "PRECISIONS",
    "PROJECT_ROOT",
    "Limits",
    "Settings",
    "Web",
    "read_pins",
    "read_settings",
]

PROJECT_ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LANGUAGES = ("en", "de")
MIN_TOKEN_CHARS = 32
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4", "offload")


def _limit(default: int, low: int, high: int, meaning: str) -> Any:
    """A whole number from `low` to `high`; its variable is CXR_ and the field's name in capitals."""
    return field(default=default, metadata={"low": low, "high": high, "meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one visitor, one address and one process may ask for.

    Where a room has a bound of its own (the reader's of a file, the page's of a question and an answer), that
    is the highest value: more would be promised here and refused there.
    """

    max_pages: int = _limit(200, 1, 10_000, "pages that may be open at once")
    max_pages_per_address: int = _limit(32, 1, 10_000, "pages that one address may have open")
    max_answers_per_address: int = _limit(12, 1, 1000, "answers that one address may wait for at once")
    answers_per_minute: int = _limit(20, 1, 10_000, "questions of one browser in a minute")
    answers_per_minute_per_address: int = _limit(60, 1, 10_000, "questions of one address in a minute")
    requests_per_minute: int = _limit(1200, 10, 100_000, "HTTP requests of one address in a minute")
    logins_per_minute: int = _limit(5, 1, 1000, "attempts to log in from one address, or as one user")
    max_turns: int = _limit(20, 1, 1000, "questions in one conversation")
    max_prompt_chars: int = _limit(2000, 1, 2000, "characters of one question")
    max_new_tokens: int = _limit(1024, 1, 1024, "tokens of one answer, whatever a model allows")
    answer_timeout_s: int = _limit(300, 1, 86_400, "seconds from the question to the end of its answer")
    stall_s: int = _limit(10, 1, 3600, "seconds until an answer ends that nobody listens to, or takes in")
    stuck_s: int = _limit(120, 1, 86_400, "seconds without a sign of the engine before it is restarted")
    page_grace_s: int = _limit(40, 1, 600, "seconds after the last connection until a page is forgotten")
    page_idle_s: int = _limit(900, 10, 604_800, "seconds without any action until a page is forgotten")
    max_body_kib: int = _limit(256, 16, 65_536, "KiB of any request that is no upload")
    max_file_mib: int = _limit(64, 1, 64, "MiB of one file")
    max_upload_mib: int = _limit(256, 1, 16_384, "MiB of all files of one upload")
    max_upload_files: int = _limit(32, 1, 1000, "files of one upload")
    max_disk_mib: int = _limit(1024, 16, 1_048_576, "MiB of uploads on disk at any moment, all visitors")


@dataclass(frozen=True, kw_only=True)
class Web:
    """Who may reach the app, and how it says that it is well."""

    profile: str = "demo"  # CXR_PROFILE: "demo", or "onprem": log in, keep an audit log, no framing
    public_url: str = ""  # CXR_PUBLIC_URL: https://name under which browsers reach the app
    frame_ancestors: str = ""  # CXR_FRAME_ANCESTORS: who may show the page in a frame; a Space sets its own
    trusted_proxies: tuple[str, ...] = ()  # CXR_TRUSTED_PROXIES: networks whose X-Forwarded-* are believed
    users_file: Path | None = None  # CXR_USERS_FILE: who may log in; made by `python -m cxr_assistant user`
    user_header: str = ""  # CXR_USER_HEADER: where a trusted proxy names the user that it has logged in
    api_token: str = field(default="", repr=False)  # CXR_API_TOKEN: what programs send as a bearer token
    metrics_port: int = 0  # CXR_METRICS_PORT: Prometheus metrics on a port of their own; 0 is off
    metrics_host: str = "127.0.0.1"  # CXR_METRICS_HOST: the address of that port
    audit_log: Path | None = None  # CXR_AUDIT_LOG: the file of the audit log

    @property
    def is_onprem(self) -> bool:
        return self.profile == "onprem"

    @property
    def has_login(self) -> bool:
        return self.users_file is not None or bool(self.user_header)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One frozen value for the whole process. Each field names its environment variable."""

    weights_dir: Path  # CXR_WEIGHTS_DIR: converted checkpoints and the embedded model
    checkpoint: str  # CXR_CHECKPOINT: the model that is chosen when the app opens
    worker: str  # CXR_WORKER: "process" (own process for torch), "inline" or "zerogpu"
    device: str  # CXR_DEVICE: "auto", "cpu" or "cuda"
    host: str  # CXR_HOST
    port: int  # CXR_PORT; a Space sets GRADIO_SERVER_PORT
    max_queue: int  # CXR_MAX_QUEUE: answers that may be open at once; whoever comes later waits in the page
    threads: int  # CXR_THREADS: CPU threads of the engine, 0 = all cores
    checkpoint_dir: Path | None = None  # CXR_CHECKPOINT_DIR: the folder of `checkpoint` itself
    precision: str = "auto"  # CXR_PRECISION: "auto" (the best that fits) or another of PRECISIONS
    open_mcp: bool = False  # CXR_MCP: whether MCP clients are served, too; needs requirements-mcp.txt
    idle_reset_s: int = 0  # CXR_IDLE_RESET_SECONDS: a stand's page starts anew after so long; 0 is never
    language: str = ""  # CXR_LANGUAGE: "en" or "de"; empty follows the browser
    pins: tuple[tuple[str, str], ...] = ()  # CXR_PINS: "NAME=COMMIT ...", for models without a known commit
    may_fetch: bool = True  # CXR_ALLOW_FETCH: whether the page may download models; "no" when others reach it
    web: Web = field(default_factory=Web)
    limits: Limits = field(default_factory=Limits)


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; SettingsError names variable, value and what is allowed."""
    env = os.environ if environ is None else environ
    weights_dir = Path(env.get("CXR_WEIGHTS_DIR") or PROJECT_ROOT / "weights").expanduser()
    checkpoint_dir = env.get("CXR_CHECKPOINT_DIR")
    host = env.get("CXR_HOST") or env.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    # Strangers must neither fill the disk nor accept terms in the owner's name.
    default_fetch = "yes" if host in LOOPBACK and not env.get("SPACE_ID") else "no"
    default_worker = "zerogpu" if env.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") else "process"
    return Settings(
        weights_dir=weights_dir,
        checkpoint_dir=Path(checkpoint_dir).expanduser() if checkpoint_dir else None,
        checkpoint=env.get("CXR_CHECKPOINT") or "embedded",
        worker=_choice(env, "CXR_WORKER", default_worker, ("process", "inline", "zerogpu")),
        device=_choice(env, "CXR_DEVICE", "auto", ("auto", "cpu", "cuda")),
        host=host,
        port=_integer(env, "CXR_PORT", _integer(env, "GRADIO_SERVER_PORT", 7860, 0, 65535), 0, 65535),
        max_queue=_integer(env, "CXR_MAX_QUEUE", 24, 1, 1000),
        threads=_integer(env, "CXR_THREADS", 0, 0, 256),
        precision=_choice(env, "CXR_PRECISION", "auto", PRECISIONS),
        open_mcp=_choice(env, "CXR_MCP", "no", ("yes", "no")) == "yes",
        idle_reset_s=_integer(env, "CXR_IDLE_RESET_SECONDS", 0, 0, 86_400),
        language=_choice(env, "CXR_LANGUAGE", "auto", ("auto", *LANGUAGES)).replace("auto", ""),
        pins=read_pins(env),
        may_fetch=_choice(env, "CXR_ALLOW_FETCH", default_fetch, ("yes", "no")) == "yes",
        web=_read_web(env),
        limits=_read_limits(env),
    )


def _read_limits(env: Mapping[str, str]) -> Limits:
    values = {
        limit.name: _integer(
            env,
            f"CXR_{limit.name.upper()}",
            limit.default,  # type: ignore[arg-type]  # every limit has a whole number
            limit.metadata["low"],
            limit.metadata["high"],
        )
        for limit in fields(Limits)
    }
    return Limits(**values)


def _read_web(env: Mapping[str, str]) -> Web:
    is_space = bool(env.get("SPACE_ID"))
    space_url = f"https://{env['SPACE_HOST']}" if env.get("SPACE_HOST") else ""
    web = Web(
        profile=_choice(env, "CXR_PROFILE", "demo", ("demo", "onprem")),
        public_url=(env.get("CXR_PUBLIC_URL") or space_url).rstrip("/"),
        frame_ancestors=env.get("CXR_FRAME_ANCESTORS") or ("https://huggingface.co" if is_space else ""),
        trusted_proxies=_networks(env, "CXR_TRUSTED_PROXIES", "10.0.0.0/8" if is_space else ""),
        users_file=_path(env, "CXR_USERS_FILE"),
        user_header=env.get("CXR_USER_HEADER") or "",
        api_token=env.get("CXR_API_TOKEN") or "",
        metrics_port=_integer(env, "CXR_METRICS_PORT", 0, 0, 65535),
        metrics_host=env.get("CXR_METRICS_HOST") or "127.0.0.1",
        audit_log=_path(env, "CXR_AUDIT_LOG"),
    )
    _check_web(web)
    return web


def _check_web(web: Web) -> None:
    if web.public_url and not web.public_url.startswith(("http://", "https://")):
        raise SettingsError(
            f"CXR_PUBLIC_URL is {web.public_url!r}; allowed: an address that begins with http:// or https://."
        )
    if web.user_header and not web.trusted_proxies:
        raise SettingsError(
            "CXR_USER_HEADER is set, and no proxy is trusted to send it.",
            hint="Set CXR_TRUSTED_PROXIES to the address of the proxy that logs people in.",
        )
    if web.api_token and len(web.api_token) < MIN_TOKEN_CHARS:
        raise SettingsError(
            f"CXR_API_TOKEN has {len(web.api_token)} characters; allowed: {MIN_TOKEN_CHARS} or more.",
            hint="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )


def _networks(env: Mapping[str, str], name: str, default: str) -> tuple[str, ...]:
    given = tuple(part.strip() for part in (env.get(name) or default).split(",") if part.strip())
    for part in given:
        try:
            ip_network(part, strict=False)
        except ValueError as error:
            raise SettingsError(
                f"{name} has {part!r}; allowed: networks such as 10.0.0.0/8, with commas between."
            ) from error
    return given


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]).expanduser() if env.get(name) else None


def read_pins(environ: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """Name and commit of each model that the machine's owner pinned; SettingsError for anything else."""
    text = (os.environ if environ is None else environ).get("CXR_PINS", "")
    pins = tuple(re.fullmatch(r"([a-z0-9-]+)=([0-9a-f]{40})", pin) for pin in text.split())
    if not all(pins):
        raise SettingsError(
            f"CXR_PINS is {text!r}; allowed: NAME=COMMIT, several with spaces between, each commit with its "
            "40 hexadecimal digits.",
            hint="Copy the full hash from the repository's list of commits.",
        )
    return tuple((pin[1], pin[2]) for pin in pins if pin)


def _choice(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name) or default
    if value not in allowed:
        raise SettingsError(
            f"{name} is {value!r}; allowed: {', '.join(allowed)}.", hint=f"Unset it for {default!r}."
        )
    return value


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text!r}; allowed: a whole number from {low} to {high}.")
    return value
