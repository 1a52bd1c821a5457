"""Conversion in a process of its own: published files in, a tested folder with its lock out, or nothing.

The child reads pickles and tensors and may be killed; the parent only watches, and lets nothing half
written stand. Run as `python -m cxr_assistant.checkpoints.prepare` with a job on standard input.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxr_assistant import errors
from cxr_assistant.checkpoints.lock import CONVERTER_VERSION, Lock, record_files, refuse_code
from cxr_assistant.checkpoints.progress import OnProgress, Progress, Stage, ignore_progress
from cxr_assistant.checkpoints.spec import Checkpoint, find_module, get_checkpoint
from cxr_assistant.errors import CheckpointError, CxrAssistantError, NotEnoughDisk
from cxr_assistant.settings import PROJECT_ROOT

__all__ = ["convert_in_child", "is_disk_full", "not_enough_disk"]

POLL_S = 0.1


def convert_in_child(
    checkpoint: Checkpoint,
    sources: Sequence[Path],
    target: Path,
    *,
    digests: Mapping[str, str],
    precision: str,
    expected_bytes: int,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Convert `sources` (one folder per repository) to the folder `target`, tested and locked.

    The folder appears under its name only when it is complete. `digests` goes into the lock.
    Raises: CorruptWeights, WeightsMismatch, NotEnoughDisk; CheckpointError when the child was killed.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed run left; the caller holds the lock
    partial.mkdir(parents=True)
    job = {
        "checkpoint": checkpoint.name,
        "sources": [str(path) for path in sources],
        "partial": str(partial),
        "digests": dict(digests),
        "precision": precision,
        "parent": os.getpid(),
    }
    try:
        _run_child(job, partial, expected_bytes, on_progress)
        _sync(partial)  # a name must not outlive the bytes that it stands for
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_disk_full(error: BaseException) -> bool:
    """True for any error that means that the disk or the quota is used up."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in full
    # safetensors and torch report the system's number in the text of an error of their own.
    found = re.search(r"os error (\d+)", str(error))
    return found is not None and int(found.group(1)) in full


def not_enough_disk(what: str) -> NotEnoughDisk:
    return NotEnoughDisk(
        f"The disk is full; {what} could not be written.",
        hint="Free some space, or set CXR_WEIGHTS_DIR and HF_HOME to a larger disk. Start again afterwards: "
        "what was downloaded is kept.",
    )


# -------------------------------------------------------------------- the parent


def _sync(folder: Path) -> None:
    """Wait until every file of `folder` is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _run_child(job: dict[str, Any], partial: Path, expected_bytes: int, on_progress: OnProgress) -> None:
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(
        [sys.executable, "-m", "cxr_assistant.checkpoints.prepare"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    try:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(job))
        child.stdin.close()
        answers: list[str] = []
        reader = threading.Thread(target=lambda: answers.extend(child.stdout or ()), daemon=True)
        reader.start()
        while child.poll() is None:
            on_progress(_converting(partial, expected_bytes, answers))
            time.sleep(POLL_S)
        reader.join()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
    _raise_for(child.returncode, answers)


def _converting(partial: Path, expected_bytes: int, answers: Sequence[str]) -> Progress:
    if any('"testing"' in line for line in list(answers)):
        return Progress(stage=Stage.TESTING)
    written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    return Progress(
        stage=Stage.CONVERTING, done_bytes=min(written, expected_bytes), total_bytes=expected_bytes
    )


def _raise_for(returncode: int, answers: Sequence[str]) -> None:
    """Nothing when the child succeeded; its own error, or what its death means, otherwise."""
    last = json.loads(answers[-1]) if answers else {}
    if "error" in last:
        kind = getattr(errors, last["error"], CheckpointError)
        raise kind(last["message"], hint=last["hint"], code=last["code"])
    if returncode == 0 and last.get("stage") == "done":
        return
    how = f"was ended by {signal.Signals(-returncode).name}" if returncode < 0 else "ended early"
    raise CheckpointError(
        f"The conversion {how}; nothing was kept of it.",
        hint="If the computer ran out of memory, close other programs. Start again: the download is kept.",
        code="conversion",
    )


# -------------------------------------------------------------------- the child


def main() -> int:
    """Do the job on standard input; say what happened as lines of JSON on standard output."""
    job = json.loads(sys.stdin.read())
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries that print must not disturb the answers
    threading.Thread(target=_die_with, args=(job["parent"],), daemon=True).start()
    try:
        _convert(job, lambda stage: print(json.dumps({"stage": stage}), file=out, flush=True))
    except Exception as error:  # the edge of a process: everything must become an answer
        _report(_explain(error), out)
        return 1
    print(json.dumps({"stage": "done"}), file=out, flush=True)
    return 0


def _convert(job: dict[str, Any], tell: Any) -> None:
    from cxr_assistant.checkpoints.blindness import require_sight

    checkpoint, partial = get_checkpoint(job["checkpoint"]), Path(job["partial"])
    module = find_module(checkpoint.name)
    module.convert([Path(source) for source in job["sources"]], partial, precision=job["precision"])
    refuse_code(partial)
    tell("testing")
    with _computing_in_float32(module.build(partial, device="cpu", precision=job["precision"])) as model:
        effect = require_sight(checkpoint, module, model)
    Lock(
        checkpoint=checkpoint.name,
        repository=checkpoint.repository,
        revision=checkpoint.revision,
        precision=job["precision"],
        converter_version=CONVERTER_VERSION,
        image_effect=effect,
        sources=job["digests"],
        files=record_files(partial),
    ).write(partial)


def _computing_in_float32(model: Any) -> Any:
    from cxr_assistant.models.upcast import computing_in_float32

    return computing_in_float32(model)


def _explain(error: Exception) -> CxrAssistantError:
    if isinstance(error, CxrAssistantError):
        return error
    if is_disk_full(error):
        return not_enough_disk("the converted checkpoint")
    import traceback

    traceback.print_exception(error, file=sys.stderr)
    return CheckpointError(
        f"The conversion failed ({type(error).__name__}).",
        hint="The files may not be those of this checkpoint; details were printed to the terminal.",
        code="conversion",
    )


def _report(error: CxrAssistantError, out: Any) -> None:
    answer = {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "code": error.code,
    }
    print(json.dumps(answer), file=out, flush=True)


def _die_with(parent: int) -> None:
    """End this process when its parent is gone: nobody would rename or remove what it writes."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
