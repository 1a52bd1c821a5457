"""Window drag in the browser: python benchmarks/dragging.py [--json] shows a film of 2048 x 2500 at 16 bits.

Starts the app without a model, drags the window in headless Chromium (software rendering) and measures each
step from the pointer's event to the moment after the frame it caused; one event a frame, as a mouse makes
them. Writes benchmarks/results/dragging.json with --json; the last line of the output is the same object.
Limit: p95 <= 33 ms. A busy machine stretches every clock, so beside it stand times that others cannot
stretch: the processor time of each frame's script, and that of all threads of the browser together for a step
(raster and compositing included). `whole_film_ms` is what painting every pixel takes in the same page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

__all__ = ["LIMIT_MS", "drag", "film_png"]

LIMIT_MS = 33.0
HEIGHT, WIDTH, NUM_STEPS = 2500, 2048, 180
CHROMIUM = "/usr/bin/chromium"

# Waits for the frame, then for the task after it, when the frame was handed to the compositor.
_DRAG = """async ({ steps }) => {
  const pane = document.querySelector("#viewer [data-state]").viewbox.pane(0), { stage } = pane;
  stage.setPointerCapture = () => {};  // made-up pointers cannot be captured
  const box = stage.getBoundingClientRect(), work = [], frames = [];
  const draw = pane.draw.bind(pane);
  pane.draw = () => { const begin = performance.now(); draw(); work.push(performance.now() - begin); };
  const send = (type, i) => stage.dispatchEvent(new PointerEvent(type, {
    pointerId: 7, button: 0, bubbles: true,
    clientX: box.left + 300 + 90 * Math.sin(i / 9), clientY: box.top + 250 + 70 * Math.cos(i / 7) }));
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done; port2.postMessage(0); }));
  send('pointerdown', 0);
  for (let i = 1; i <= 10; i++) { send('pointermove', i); await painted(); }  // the first frames compile
  work.length = 0;
  for (let i = 11; i <= steps + 10; i++) {
    await new Promise((done) => setTimeout(done, 0));
    const begin = performance.now();
    send('pointermove', i);
    await painted();
    frames.push(performance.now() - begin);
  }
  send('pointerup', steps + 11);
  delete pane.draw;
  const table = new Uint32Array(65536), words = new Uint32Array(pane.pixels.length), whole = [];
  for (let n = 0; n < 5; n++) {
    const begin = performance.now();
    for (let i = 0; i < words.length; i++) words[i] = table[pane.pixels[i]];
    whole.push(performance.now() - begin);
  }
  return { frames, work, whole };
}"""


def film_png(height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A 16-bit PNG with most of its range in use: noise over a slope, the worst case for compression."""
    from cxr_assistant.imaging.rendering import encode_png

    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    noise = np.random.default_rng(4).normal(0, 0.02, (height, width))
    return encode_png((np.clip(0.15 + 0.5 * y + 0.3 * x * y + noise, 0, 1) * 65535).astype(np.uint16))


def drag(page: Any, steps: int = NUM_STEPS) -> dict[str, float]:
    """Drag the window of the film on the viewer's first pane; milliseconds per step."""
    times = page.evaluate(_DRAG, {"steps": steps})
    frames, work = np.asarray(times["frames"]), np.asarray(times["work"])
    return {
        "frame_p50_ms": round(float(np.percentile(frames, 50)), 2),
        "frame_p95_ms": round(float(np.percentile(frames, 95)), 2),
        "script_p50_ms": round(float(np.percentile(work, 50)), 2),
        "script_p95_ms": round(float(np.percentile(work, 95)), 2),
        "whole_film_ms": round(float(np.median(times["whole"])), 2),
    }


def processor_times(trace: bytes, steps: int) -> dict[str, float]:
    """Milliseconds of processor time in a Chromium trace: of a frame's script, of all threads for a step."""
    events = [event for event in json.loads(trace)["traceEvents"] if "tdur" in event]
    frames = sorted(event["tdur"] / 1000 for event in events if event["name"] == "FireAnimationFrame")
    script = frames[-steps:]  # the others are those that wait for the frame, and do nothing
    tasks = [event["tdur"] / 1000 for event in events if event["name"] == "ThreadControllerImpl::RunTask"]
    return {
        "cpu_script_p50_ms": round(float(np.percentile(script, 50)), 2),
        "cpu_script_p95_ms": round(float(np.percentile(script, 95)), 2),
        "cpu_all_threads_mean_ms": round(sum(tasks) / steps, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/dragging.json")
    parser.add_argument("--port", type=int, default=7861)
    given = parser.parse_args()
    results = _measured(given.port) | {
        "film": f"{WIDTH} x {HEIGHT}, 16 bit",
        "steps": NUM_STEPS,
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
        "limit_ms": LIMIT_MS,
    }
    results["is_met"] = results["frame_p95_ms"] <= LIMIT_MS
    if given.json:
        out = ROOT / "benchmarks" / "results" / "dragging.json"
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))
    return 0 if results["is_met"] else 1


def _measured(port: int) -> dict[str, Any]:
    from playwright.sync_api import FilePayload, sync_playwright

    from cxr_assistant.loading import load
    from cxr_assistant.settings import read_settings
    from cxr_assistant.ui.app import build_app, launch

    settings = read_settings({"CXR_PORT": str(port)})
    with load(worker="inline", settings=settings) as assistant:
        blocks = build_app(assistant, settings)
        launch(blocks, settings, prevent_thread_lock=True, announce=None)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(300_000)
            page.goto(str(blocks.local_url))
            page.wait_for_selector(".empty-room h2")
            page.wait_for_function("document.querySelector('.tasks')?.childElementCount > 0")
            film = FilePayload(name="film", mimeType="application/octet-stream", buffer=film_png())
            page.set_input_files("#room > input[type=file]", [film])
            page.wait_for_selector("#viewer [data-state=ready]")
            figures: dict[str, Any] = drag(page)
            browser.start_tracing(page=page, categories=["devtools.timeline", "toplevel"])
            drag(page)  # once more: tracing itself costs, so the clock is not read here
            figures |= processor_times(browser.stop_tracing(), NUM_STEPS)
            figures |= {"chromium": browser.version, "gradio": version("gradio")}
            browser.close()
        blocks.close()
    return figures


if __name__ == "__main__":
    sys.exit(main())
