"""Converting and loading at full size: python benchmarks/loading.py llava-rad PUBLISHED_DIR WORK_DIR

PUBLISHED_DIR holds the published files, real or from `checkpoints make-random`; WORK_DIR takes the converted
folder and needs as much room again. Writes benchmarks/results/loading-NAME.json (loading-NAME-cuda.json with
--device cuda); the last line of the output is the same object. Steps that are not run keep the figures that
the file holds. Limits judged: conversion needs at most its largest shard + 2 GiB of anonymous memory; loading
takes at most 1.3x the time of reading the same bytes from a cold page cache, and at most weights + 1 GiB of
anonymous memory. Loading is timed in the precision that is stored and in that of --precision, in turn with
reading, --rounds times, each from the same state: nothing of the files in memory, and free memory that the
host of a virtual machine has handed out. The step `make` writes random weights into PUBLISHED_DIR where it is
empty. The step `precisions` loads and asks in every precision that fits the device, and records the memory
that each takes: of the GPU, or anonymous memory on the CPU.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cxr_assistant.checkpoints.hub import hash_file  # noqa: E402
from cxr_assistant.checkpoints.lock import record_files  # noqa: E402
from cxr_assistant.checkpoints.spec import find_module, get_checkpoint  # noqa: E402
from cxr_assistant.checkpoints.weights import stored_precision  # noqa: E402
from cxr_assistant.models.precision import read_device  # noqa: E402

GIB = 1024**3
BLOCK_BYTES = 16 * 1024 * 1024
POLL_S = 0.02
CONVERT_SPARE_BYTES = 2 * GIB
LOAD_SPARE_BYTES = 1 * GIB
SLOWEST_RATIO = 1.3
LOADED = ("reading", "loading_as_stored", "loading")


def main() -> int:
    given = _arguments()
    if given.phase:
        print(json.dumps(PHASES[given.phase](given)))
        return 0
    is_cuda = given.device != "cpu"
    out = given.out or ROOT / "benchmarks" / "results" / f"loading-{given.name}{'-cuda' * is_cuda}.json"
    results: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.exists() else {}
    for step in given.steps:
        started = {"date": time.strftime("%Y-%m-%d"), "load_average": round(os.getloadavg()[0], 2)}
        if step == "load":  # a row that this run does not measure must not be judged by its reading
            results = {name: figures for name, figures in results.items() if name not in LOADED}
        results |= {name: figures | started for name, figures in STEPS[step](given).items()}
    results |= {
        "checkpoint": given.name,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        "weights_bytes": sum(path.stat().st_size for path in _weight_paths(given)),
    }
    results["verdicts"] = _judge(results)
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(results))
    return 0 if all(results["verdicts"].values()) else 1


# -------------------------------------------------------------------- steps, each of one or several phases


def _make(given: argparse.Namespace) -> dict[str, Any]:
    if not given.published.is_dir() or not any(given.published.iterdir()):
        _phase("make", given)
    return {}


def _convert_anew(given: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(given.work / "converted", ignore_errors=True)
    return {"conversion": _phase("convert", given) | _largest_shard(given.published)}


def _load_and_read(given: argparse.Namespace) -> dict[str, Any]:
    """In turn, the page cache emptied before each: what lies below it (a controller, a host) learns from the
    first reading, and neighbours come and go, so that medians of several rounds are compared."""
    stored = stored_precision(get_checkpoint(given.name))
    phases = {"reading": ["read"], "loading_as_stored": ["load", f"--precision={stored}"]}
    if given.precision != stored:
        phases["loading"] = ["load"]
    rounds = [
        {name: _phase(phase, given, *changes) for name, (phase, *changes) in phases.items()}
        for _ in range(given.rounds)
    ]
    return {name: _median([found[name] for found in rounds]) for name in phases}


def _median(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The round whose time is the median, and the times of all."""
    timed = sorted(rounds, key=_seconds)
    return timed[len(timed) // 2] | {"all_s": [round(_seconds(figures), 2) for figures in rounds]}


def _seconds(figures: dict[str, Any]) -> float:
    return float(figures["read_s" if "read_s" in figures else "load_s"])


def _every_precision(given: argparse.Namespace) -> dict[str, Any]:
    """Each precision in a process of its own; one that does not fit says what it would need."""
    from cxr_assistant.models.precision import Footprint, list_fits, read_device

    device = read_device(given.device)
    found: dict[str, Any] = {"device": device.title}
    for fit in list_fits(Footprint.estimate(get_checkpoint(given.name).num_parameters), device):
        if given.only and fit.precision not in given.only:
            continue
        found[fit.precision] = {"needed_bytes": fit.needed_bytes, "fits": fit.fits}
        if fit.fits:
            found[fit.precision] |= _answer_or_failure(given, f"--precision={fit.precision}")
    return {"precisions": found}


def _answer_or_failure(given: argparse.Namespace, change: str) -> dict[str, Any]:
    """One precision that fails must not cost the figures of the others."""
    try:
        return _phase("answer", given, change)
    except SystemExit as failure:
        return {"failed": str(failure)}


STEPS = {
    "make": _make,
    "convert": _convert_anew,
    "load": _load_and_read,
    "hash": lambda given: {"hashing": _phase("hash", given)},
    "answer": lambda given: {"answer": _phase("answer", given)},
    "precisions": _every_precision,
}

# -------------------------------------------------------------------- phases, each in a process of its own


def make(given: argparse.Namespace) -> dict[str, Any]:
    from cxr_assistant.checkpoints.weights import make_random

    make_random(get_checkpoint(given.name), given.published)
    return {}


def convert(given: argparse.Namespace) -> dict[str, Any]:
    """Conversion as `prepare` does it, with the blindness test apart."""
    from cxr_assistant.checkpoints.blindness import require_sight
    from cxr_assistant.models.upcast import computing_in_float32

    checkpoint, module, target = get_checkpoint(given.name), find_module(given.name), given.work / "converted"
    target.mkdir(parents=True)
    precision = stored_precision(checkpoint)
    started = time.perf_counter()
    module.convert([given.published], target, precision=precision)
    converted = time.perf_counter()
    figures: dict[str, Any] = {"convert_s": converted - started}
    if not given.skip_sight:
        with computing_in_float32(module.build(target, device="cpu", precision=precision)) as model:
            figures["image_effect"] = require_sight(checkpoint, module, model)
        figures["sight_s"] = time.perf_counter() - converted
    return figures


def read(given: argparse.Namespace) -> dict[str, Any]:
    """Read the bytes of the weights once, in large blocks, from a cold page cache."""
    buffer = bytearray(BLOCK_BYTES)
    paths = _weight_paths(given)
    _forget(paths)
    _claim_memory(paths)
    started = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return {"read_s": time.perf_counter() - started}


def load(given: argparse.Namespace) -> dict[str, Any]:
    """Build from a cold page cache and touch every tensor; imports are not counted, they are the same."""
    module = find_module(given.name)
    _import_everything()
    _forget(_weight_paths(given))
    _claim_memory(_weight_paths(given))
    started = time.perf_counter()
    model = module.build(given.work / "converted", device="cpu", precision=given.precision)
    built = time.perf_counter()
    touched = _touch(model)
    done = time.perf_counter()
    seconds = {"build_s": built - started, "touch_s": done - built, "load_s": done - started}
    return {**seconds, "touched_bytes": touched, "precision": given.precision}


def hashing(given: argparse.Namespace) -> dict[str, Any]:
    paths = _weight_paths(given)
    started = time.perf_counter()
    for path in paths:
        hash_file(path, "0" * 64, lambda _: None)
    return {"hash_s": time.perf_counter() - started, "files": len(record_files(given.work / "converted"))}


def answer(given: argparse.Namespace) -> dict[str, Any]:
    """A greedy answer of a few tokens about a computed picture, and what the device held at most."""
    import torch

    from cxr_assistant.checkpoints.blindness import _pictures, _task_on_one_image
    from cxr_assistant.conversation import Conversation
    from cxr_assistant.study import Study

    checkpoint, module = get_checkpoint(given.name), find_module(given.name)
    _import_everything()
    if is_cuda := given.device != "cpu":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    before = time.perf_counter()
    model = module.build(given.work / "converted", device=given.device, precision=given.precision)
    built = time.perf_counter() - before
    study = Study().with_radiograph(_pictures()[0])
    task = _task_on_one_image(checkpoint)
    prompt = module.render(checkpoint, study, Conversation(), task, model.processor)
    cache = model.new_cache(len(prompt) + given.num_tokens)
    started = time.perf_counter()
    embeds = model.encode(prompt.pixel_values)
    encoded = time.perf_counter()
    ids = [int(model.prefill(prompt, embeds, cache).argmax())]
    first = time.perf_counter()
    while len(ids) < given.num_tokens:
        ids.append(int(model.decode(torch.tensor([ids[-1]], device=model.device), cache).argmax()))
    last = time.perf_counter()
    return {
        "precision": given.precision,
        "device": torch.cuda.get_device_name(given.device) if is_cuda else "CPU",
        "device_peak_bytes": torch.cuda.max_memory_reserved(given.device) if is_cuda else None,
        "load_s": built,
        "prompt_tokens": len(prompt),
        "encode_s": encoded - started,
        "prefill_s": first - encoded,
        "decode_s_per_token": (last - first) / max(1, given.num_tokens - 1),
        "token_ids": ids,
    }


PHASES = {
    "make": make,
    "convert": convert,
    "read": read,
    "load": load,
    "hash": hashing,
    "answer": answer,
}


# -------------------------------------------------------------------- measuring


def _phase(name: str, given: argparse.Namespace, *changes: str) -> dict[str, Any]:
    """Run one phase in a fresh process; its figures and the most anonymous memory it held."""
    command = [sys.executable, __file__, *given.raw, *changes, "--phase", name]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while child.poll() is None:
        peak = max(peak, _anonymous_bytes(child.pid))
        time.sleep(POLL_S)
    output = child.stdout.read() if child.stdout is not None else ""
    if child.returncode:
        raise SystemExit(f"The phase {name} ended with {child.returncode}.")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures | {"anonymous_peak_bytes": peak}


def _anonymous_bytes(pid: int) -> int:
    """RssAnon: memory that no file backs. Mapped weights are the kernel's to drop and do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return 0  # it has just ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def _forget(paths: Sequence[Path]) -> None:
    """Put files out of the page cache; the disk may have a cache of its own, which both timings share."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _claim_memory(paths: Sequence[Path]) -> None:
    """Write to as much memory as the files take, and let go of it: free and there when the clock starts.

    What a virtual machine frees may go back to its host within seconds and come again page by page: to touch
    21 GB took between 0.7 and 26 s, by what had run before. It is shared memory, which the anonymous memory
    of the phase does not count.
    """
    wanted = sum(path.stat().st_size for path in paths) + GIB
    with mmap.mmap(-1, min(wanted, max(GIB, read_device("cpu").free_bytes - GIB))) as memory:
        for start in range(0, len(memory), BLOCK_BYTES):
            memory[start : start + BLOCK_BYTES : mmap.PAGESIZE] = bytes(
                len(range(start, min(start + BLOCK_BYTES, len(memory)), mmap.PAGESIZE))
            )


def _touch(model: Any) -> int:
    """Read one number of each page of every tensor, so that all of it must be there."""
    from torch import nn

    total = 0
    parts = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    for parameter in {id(p): p for part in parts for p in part.parameters()}.values():
        flat = parameter.detach().view(-1)
        flat[:: max(1, 4096 // flat.element_size())].float().sum()
        total += flat.numel() * flat.element_size()
    return total


def _import_everything() -> None:
    import accelerate  # noqa: F401
    import transformers

    for name in ("LlamaForCausalLM", "LlavaForConditionalGeneration", "PhiForCausalLM", "SiglipVisionModel"):
        getattr(transformers, name)


def _weight_paths(given: argparse.Namespace) -> list[Path]:
    return sorted((given.work / "converted").glob("*.safetensors"))


def _largest_shard(published: Path) -> dict[str, int]:
    suffixes = (".bin", ".pt", ".safetensors")
    sizes = [path.stat().st_size for path in published.rglob("*") if path.suffix in suffixes]
    return {"largest_shard_bytes": max(sizes)}


def _judge(results: dict[str, Any]) -> dict[str, bool]:
    """The limits, for what was measured."""
    verdicts = {}
    for name in ("loading_as_stored", "loading"):
        if name in results:
            loading, weights = results[name], results["weights_bytes"]
            verdicts[f"{name}_is_as_fast_as_reading"] = (
                loading["load_s"] <= SLOWEST_RATIO * results["reading"]["read_s"]
            )
            verdicts[f"{name}_needs_no_second_copy"] = (
                loading["anonymous_peak_bytes"] <= weights + LOAD_SPARE_BYTES
            )
    if "conversion" in results:
        conversion = results["conversion"]
        allowed = conversion["largest_shard_bytes"] + CONVERT_SPARE_BYTES
        verdicts["conversion_holds_one_shard"] = conversion["anonymous_peak_bytes"] <= allowed
    if "answer" in results:
        verdicts["answers"] = len(results["answer"]["token_ids"]) > 0
    if "precisions" in results:
        tried = [found for found in results["precisions"].values() if isinstance(found, dict)]
        verdicts["every_precision_that_fits_answers"] = all(f.get("token_ids") for f in tried if f["fits"])
    return verdicts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="such as llava-rad")
    parser.add_argument("published", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda; of the answers, conversion is the CPU's"
    )
    parser.add_argument(
        "--precision", default="bf16", help="of the second load that is timed and of the answer"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the step load")
    parser.add_argument("--num-tokens", type=int, default=16)
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=["convert", "load", "hash", "answer"], metavar="STEP"
    )
    parser.add_argument("--only", nargs="+", metavar="PRECISION", help="of the step precisions")
    parser.add_argument("--out", type=Path, help="instead of benchmarks/results/loading-NAME.json")
    parser.add_argument("--skip-sight", action="store_true", help="leave out the blindness test")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.raw = sys.argv[1:]
    return given


if __name__ == "__main__":
    sys.exit(main())
