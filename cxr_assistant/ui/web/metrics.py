"""What is counted, and a port of its own where Prometheus may fetch it.

Knows numbers under names that are written here: no label is ever made of what a user, a file or a model said.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cxr_assistant.errors import SettingsError

__all__ = ["Gauges", "Metrics", "serve_metrics"]

_OUTCOMES = ("stop", "length", "cancelled", "timed-out", "stalled", "left", "busy", "failed")
_STATUSES = ("2xx", "3xx", "4xx", "5xx")
_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

Gauges = Callable[[], dict[str, float]]
"""What is true at this moment, by name."""


class Metrics:
    """Counters of fixed names; `gauges` is asked at each visit."""

    def __init__(self, gauges: Gauges = dict) -> None:
        self._gauges = gauges
        self._lock = threading.Lock()
        self._answers: Counter[str] = Counter()
        self._responses: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def count_answer(self, outcome: str, seconds: float) -> None:
        """An answer came to its end; an outcome that has no name here counts as failed."""
        with self._lock:
            self._answers[outcome if outcome in _OUTCOMES else "failed"] += 1
            self._seconds += seconds
            for bound in _SECONDS:
                self._buckets[bound] += seconds <= bound

    def count_response(self, status: int) -> None:
        with self._lock:
            self._responses[f"{status // 100}xx"] += 1

    def exposition(self) -> str:
        """All of it in Prometheus' text format 0.0.4."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# TYPE cxr_answers_total counter"
        yield from (f'cxr_answers_total{{outcome="{o}"}} {self._answers[o]}' for o in _OUTCOMES)
        yield "# TYPE cxr_responses_total counter"
        yield from (f'cxr_responses_total{{status="{s}"}} {self._responses[s]}' for s in _STATUSES)
        total = sum(self._answers.values())
        yield "# TYPE cxr_answer_seconds histogram"
        yield from (f'cxr_answer_seconds_bucket{{le="{b}"}} {self._buckets[b]}' for b in _SECONDS)
        yield f'cxr_answer_seconds_bucket{{le="+Inf"}} {total}'
        yield f"cxr_answer_seconds_sum {self._seconds:.3f}"
        yield f"cxr_answer_seconds_count {total}"
        for name, value in sorted(self._gauges().items()):
            yield f"# TYPE cxr_{name} gauge"
            yield f"cxr_{name} {value:g}"


def serve_metrics(metrics: Metrics, host: str, port: int) -> ThreadingHTTPServer:
    """Answer `GET /metrics` on a port of its own, in a thread, until `shutdown()`."""

    class Visit(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = metrics.exposition().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """No log of visits."""

    try:
        server = ThreadingHTTPServer((host, port), Visit)
    except OSError as error:
        raise SettingsError(f"Port {port} of {host} cannot be used for metrics.") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="cxr-metrics", daemon=True).start()
    return server
