"""A decoder that dies, hangs or misbehaves costs one sentence; the next film is read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cxr_assistant.errors import StudyError, UnreadableImage
from cxr_assistant.imaging import child, wire
from cxr_assistant.imaging.read import decode_radiograph, read_radiograph
from cxr_assistant.imaging.sandbox import Bounds, Sandbox, default_sandbox
from cxr_assistant.imaging.shared_memory import anonymous_memory, copy_from, write_memory
from cxr_assistant.settings import PROJECT_ROOT
from tests.imaging.builders import dicom, encapsulated, jpeg2000_frame, picture, thorax
from tests.imaging.faulty_decoder import WRITTEN

FILM = dicom()


@pytest.fixture(scope="module")
def faulty() -> Iterator[Sandbox]:
    """A sandbox whose decoder does what the file says."""
    bounds = Bounds(memory_bytes=256 << 20, cpu_s=1, wall_s=1.5)
    sandbox = Sandbox("tests.imaging.faulty_decoder:decode", bounds)
    yield sandbox
    sandbox.close()


@pytest.mark.requirement("U7", "U11")
@pytest.mark.parametrize(
    "fault",
    ["abort", "segfault", "kill", "exit", "panic", "spin", "sleep", "allocate", "open", "connect", "pipe",
     "write", "flood", "trickle", "pixels-and-no-facts", "pixels-and-death", "not-a-radiograph"],
)  # fmt: skip
def test_a_decoder_that_goes_wrong_is_one_sentence(faulty: Sandbox, fault: str) -> None:
    Path(WRITTEN).unlink(missing_ok=True)
    with pytest.raises(UnreadableImage) as caught:
        faulty.decode(fault.encode(), None)
    assert (caught.value.code, caught.value.message) == ("internal", "The file could not be read.")
    assert faulty.decode(b"fine", None).stored.shape == (40, 40)
    assert not Path(WRITTEN).exists()


def test_films_in_a_row_and_after_a_rest_are_read_alike() -> None:
    """By children that are forked when they are asked for, and by one that could make itself ready."""
    with closing(Sandbox()) as sandbox:
        in_a_row = [sandbox.decode(FILM, None) for _ in range(4)]
        time.sleep(4 * child._PATIENCE_S)
        rested = sandbox.decode(FILM, None)
    expected = decode_radiograph(FILM, None).stored
    assert all(np.array_equal(film.stored, expected) for film in (*in_a_row, rested))


@pytest.mark.requirement("U7")
def test_where_no_process_can_be_had_a_film_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    sandbox = Sandbox()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    sandbox.start()  # in vain, and without a word
    with pytest.raises(UnreadableImage, match="could not be read"):
        sandbox.decode(FILM, None)
    monkeypatch.undo()
    assert sandbox.decode(FILM, None).source == "DICOM"
    sandbox.close()


@pytest.mark.requirement("U7")
def test_a_child_cannot_shrink_the_memory_that_its_parent_reads() -> None:
    descriptor = anonymous_memory(4096)
    with pytest.raises(OSError):
        os.ftruncate(descriptor, 0)
    write_memory(descriptor, b"film")
    assert copy_from(descriptor, 4) == b"film"
    os.close(descriptor)


def test_the_child_sees_nothing_of_the_environment(faulty: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    faulty.close()
    assert faulty.decode(b"environment", None).stored.shape == (40, 40)


def test_a_decoder_steps_back_for_the_side_that_faces_people() -> None:
    sandbox = Sandbox()
    try:
        sandbox.decode(FILM, None)
        assert sandbox._warm is not None
        assert os.getpriority(os.PRIO_PROCESS, sandbox._warm.pid) == min(19, os.nice(0) + 5)
    finally:
        sandbox.close()


@pytest.mark.requirement("U7")
def test_the_warm_process_is_replaced_when_it_was_killed() -> None:
    sandbox = Sandbox()
    try:
        assert sandbox.decode(FILM, None).source == "DICOM"
        assert sandbox._warm is not None
        os.kill(sandbox._warm.pid, signal.SIGKILL)
        assert sandbox.decode(FILM, None).source == "DICOM"
    finally:
        sandbox.close()


def test_a_sandbox_that_cannot_start_is_one_sentence() -> None:
    sandbox = Sandbox("tests.imaging.no_such_module:decode")
    with pytest.raises(UnreadableImage) as caught:
        sandbox.decode(FILM, None)
    assert caught.value.code == "internal"
    sandbox.close()


def test_films_are_read_from_many_threads_at_once() -> None:
    films = [dicom(PatientID=str(number)) for number in range(8)]
    hashes: dict[int, str | None] = {}

    def read(number: int) -> None:
        hashes[number] = read_radiograph(films[number], session_key=b"k" * 32).patient_hash

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {n: decode_radiograph(films[n], b"k" * 32).patient_hash for n in range(8)}
    assert hashes == expected


def test_no_child_and_no_descriptor_is_left_behind() -> None:
    read_radiograph(FILM)
    warm = default_sandbox()._warm
    assert warm is not None
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        read_radiograph(FILM)
    assert len(os.listdir("/proc/self/fd")) == before
    children = subprocess.run(
        ["ps", "--ppid", str(warm.pid), "-o", "stat="], capture_output=True, text=True, check=False
    )
    assert [state for state in children.stdout.split() if state.startswith("Z")] == []


@pytest.mark.parametrize("data", [dicom(), picture((thorax() >> 4).astype(np.uint8))], ids=["dicom", "png"])
def test_the_child_gives_what_decoding_in_process_gives(data: bytes) -> None:
    here, there = decode_radiograph(data, b"k" * 32), read_radiograph(data, session_key=b"k" * 32)
    assert here.digest == there.digest
    assert wire.pack_facts(here) == wire.pack_facts(there)
    with pytest.raises(ValueError, match="read-only"):
        there.stored[0, 0] = 1


@pytest.mark.requirement("U11")
def test_the_reading_process_imports_no_decoder() -> None:
    script = (
        "import sys; from cxr_assistant.imaging.read import read_radiograph; "
        "print(read_radiograph(sys.stdin.buffer.read()).view); "
        "print(sorted({'pydicom', 'gdcm', 'jpeg_ls', 'openjpeg', 'PIL', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=dicom(ViewPosition="PA"), capture_output=True,
        cwd=PROJECT_ROOT, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.decode().split("\n")[:2] == ["PA", "[]"]
    assert done.stderr == b""


def packed(**changes: object) -> bytes:
    facts = json.loads(wire.pack_facts(decode_radiograph(FILM, None)))
    return json.dumps({**facts, **changes}).encode()


@pytest.mark.requirement("P1", "U7")
@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(b"\x80\x05K\x01.", id="a-pickle"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b"[" * 30_000, id="deep"),
        pytest.param(packed(shape=[96, 81]), id="shape"),
        pytest.param(packed(dtype="object"), id="dtype"),
        pytest.param(packed(dtype="float64"), id="float"),
        pytest.param(packed(bits_stored="12"), id="type"),
        pytest.param(packed(bits_stored=10**9), id="bits"),
        pytest.param(packed(is_inverted=None), id="nothing"),
        pytest.param(packed(patient_hash="DOE^JANE"), id="patient"),
        pytest.param(packed(day_offset=10**9), id="days"),
        pytest.param(packed(rescale=[float("nan"), 0]), id="nan"),
        pytest.param(packed(view="<b>PA</b>"), id="view"),
        pytest.param(packed(orientation=["<b>", "F"]), id="orientation"),
        pytest.param(packed(notices=["Send your password"]), id="notice"),
        pytest.param(packed(source="<b>"), id="source"),
        pytest.param(packed(modality_code="<b>"), id="modality"),
        pytest.param(packed(tables=[[0, 10**9, 16, ""]]), id="table"),
        pytest.param(packed(shape=[64, 64], tables=[[0, 256, 10**9, ""]]), id="table-bits"),
        pytest.param(json.dumps({"error": ["SystemExit", "a", "b", "c"]}).encode(), id="error-class"),
        pytest.param(json.dumps({"error": ["StudyError", "a", "b" * 999, "c"]}).encode(), id="error-text"),
        pytest.param(json.dumps({"error": ["StudyError", "a", "b\n", "c"]}).encode(), id="error-lines"),
    ],
)
def test_nothing_that_a_child_says_is_believed(facts: bytes) -> None:
    with pytest.raises(StudyError) as caught:
        wire.unpack(facts, bytearray(thorax().tobytes()))
    assert caught.value.code == "internal"


@pytest.mark.requirement("U2")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux says which processors to use")
def test_a_child_takes_two_processors_of_a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread for each of 64 would take the memory that a film needs."""
    taken: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: taken.append(tuple(processors)))
    for pid in (100, 63, 64):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        child._use_few_processors()
    assert taken == [(36, 37), (63, 0), (0, 1)]


@pytest.mark.requirement("U2", "U11")
@pytest.mark.parametrize("side", [3450, 4267], ids=["12 million", "the largest detector"])
def test_a_large_film_in_lossless_jpeg_2000_is_read(side: int) -> None:
    rows, columns = np.indices((side, side), np.uint16)
    film = rows * 9 + columns * 6  # smooth: it is the memory that is looked at
    data = encapsulated(jpeg2000_frame(film), film, 16, "1.2.840.10008.1.2.4.90")
    assert np.array_equal(read_radiograph(data).stored, film)
