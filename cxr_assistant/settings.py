"""Environment and paths: read once, typed, and refused when they make no sense."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cxr_assistant.errors import SettingsError

__all__ = ["LANGUAGES", "PRECISIONS", "PROJECT_ROOT", "Settings", "read_settings"]

PROJECT_ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LANGUAGES = ("en", "de")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4", "offload")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One frozen value for the whole process. Each field names its environment variable."""

    weights_dir: Path  # CXR_WEIGHTS_DIR: converted checkpoints and the embedded model
    checkpoint: str  # CXR_CHECKPOINT: the model that is chosen when the app opens
    worker: str  # CXR_WORKER: "process" (own process for torch) or "inline"
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
    may_fetch: bool = True  # CXR_ALLOW_FETCH: whether the page may download models; "no" when others reach it


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; SettingsError names variable, value and what is allowed."""
    env = os.environ if environ is None else environ
    weights_dir = Path(env.get("CXR_WEIGHTS_DIR") or PROJECT_ROOT / "weights").expanduser()
    checkpoint_dir = env.get("CXR_CHECKPOINT_DIR")
    host = env.get("CXR_HOST") or env.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    # Strangers must neither fill the disk nor accept terms in the owner's name.
    default_fetch = "yes" if host in LOOPBACK and not env.get("SPACE_ID") else "no"
    return Settings(
        weights_dir=weights_dir,
        checkpoint_dir=Path(checkpoint_dir).expanduser() if checkpoint_dir else None,
        checkpoint=env.get("CXR_CHECKPOINT") or "embedded",
        worker=_choice(env, "CXR_WORKER", "process", ("process", "inline")),
        device=_choice(env, "CXR_DEVICE", "auto", ("auto", "cpu", "cuda")),
        host=host,
        port=_integer(env, "CXR_PORT", _integer(env, "GRADIO_SERVER_PORT", 7860, 0, 65535), 0, 65535),
        max_queue=_integer(env, "CXR_MAX_QUEUE", 24, 1, 1000),
        threads=_integer(env, "CXR_THREADS", 0, 0, 256),
        precision=_choice(env, "CXR_PRECISION", "auto", PRECISIONS),
        open_mcp=_choice(env, "CXR_MCP", "no", ("yes", "no")) == "yes",
        idle_reset_s=_integer(env, "CXR_IDLE_RESET_SECONDS", 0, 0, 86_400),
        language=_choice(env, "CXR_LANGUAGE", "auto", ("auto", *LANGUAGES)).replace("auto", ""),
        may_fetch=_choice(env, "CXR_ALLOW_FETCH", default_fetch, ("yes", "no")) == "yes",
    )


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
