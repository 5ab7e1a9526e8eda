"""The folder of a session: torn lines, changed stores, and who may edit."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from unittest import mock

import numpy as np
import psutil
import pytest

from napari_cad.core.errors import StoreMismatchError
from napari_cad.proofreading.errors import ReadOnlyError, SessionError, SessionMismatchError
from napari_cad.proofreading.folder import session_folder
from napari_cad.proofreading.lock import Holder, SessionLock
from napari_cad.proofreading.session import ProofreadingSession


@pytest.fixture
def edited(tmp_path, new_source):
    """A session with three edits and an undo, closed; the LUT after each of its lines."""
    source, path = new_source(), tmp_path / "session"
    with ProofreadingSession(source, path) as session:
        luts = [session.lut.copy()]
        for edit in (
            lambda: session.isolate(3),
            lambda: session.merge([session.segment_of(3), session.segment_of(20)], force=True),
            lambda: session.set_threshold(0.6),
            session.undo,
        ):
            edit()
            luts.append(session.lut.copy())
    return source, path, luts


def test_a_log_torn_anywhere_loses_the_last_edit_and_no_other(edited):
    source, path, luts = edited
    log = path / "edits.jsonl"
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 4
    start = len(content) - len(lines[-1])
    for n in (start, start + 1, len(content) - 1):
        log.write_bytes(content[:n])
        with ProofreadingSession(source, path) as session:
            np.testing.assert_array_equal(session.lut, luts[3])
            assert any("torn" in m for m in session.messages) == (n > start)
            session.undo()
            np.testing.assert_array_equal(session.lut, luts[2])
        assert log.read_bytes().startswith(content[:start])
        with ProofreadingSession(source, path) as session:  # repaired for good
            assert session.messages == []
    assert (path / "edits.torn").read_bytes().count(b"\n") == 2


def test_a_last_line_with_its_end_but_not_its_middle_is_torn_too(edited):
    source, path, luts = edited
    log = path / "edits.jsonl"
    content = bytearray(log.read_bytes())
    content[-30:-10] = bytes(20)
    log.write_bytes(content)
    with ProofreadingSession(source, path) as session:
        np.testing.assert_array_equal(session.lut, luts[3])
        assert "torn" in session.messages[0]


def test_half_a_line_left_by_a_full_disk_does_not_end_up_behind_a_shorter_one(edited):
    source, path, _ = edited
    write = os.write

    def write_half(file, data):
        write(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with ProofreadingSession(source, path) as session:
        session.go_to(3)
        with (
            mock.patch("os.write", write_half),
            mock.patch("os.ftruncate", side_effect=OSError(5, "Input/output error")),
            pytest.raises(SessionError),
        ):
            session.lock(np.unique(session.lut[session.lut > 0]))  # a long line
        with (
            mock.patch("os.write", write_half),
            mock.patch("os.ftruncate", side_effect=[None, OSError(5, "Input/output error")]),
            pytest.raises(SessionError),
        ):
            session.lock(np.unique(session.lut[session.lut > 0]))
        session.undo()  # a short one
        lut = session.lut.copy()
    with ProofreadingSession(source, path) as session:
        assert session.messages == []
        np.testing.assert_array_equal(session.lut, lut)


def test_damage_before_the_last_line_is_not_repaired_by_guessing(edited):
    source, path, _ = edited
    log = path / "edits.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\n"
    log.write_bytes(b"".join(lines))
    with pytest.raises(SessionError, match=r"line 2 of .* is damaged"):
        ProofreadingSession(source, path)
    assert log.read_bytes() == b"".join(lines)
    assert not (path / "session.lock").exists()


def test_a_changed_store_is_refused_with_both_signatures(edited, new_source):
    source, path, _ = edited
    other = new_source(1)
    with pytest.raises(SessionMismatchError) as info:
        ProofreadingSession(other, path)
    assert isinstance(info.value, StoreMismatchError)
    assert info.value.expected == source.signature
    assert info.value.found == other.signature
    assert source.signature["graph"] in str(info.value)
    assert other.signature["graph"] in str(info.value)
    changed = dataclasses.replace(source, signature={**source.signature, "store": {"config": 2}})
    with pytest.raises(SessionMismatchError, match=r"store was None and is \{'config': 2\}"):
        ProofreadingSession(changed, path)
    ProofreadingSession(source, path).close()


def test_the_session_goes_on_from_its_own_threshold(edited):
    source, path, luts = edited
    with ProofreadingSession(dataclasses.replace(source, threshold=0.9), path) as session:
        np.testing.assert_array_equal(session.lut, luts[-1])


def test_a_newer_format_and_a_damaged_description_are_refused(edited):
    source, path, _ = edited
    settings = json.loads((path / "session.json").read_text())
    (path / "session.json").write_text(json.dumps({**settings, "format": 99}))
    with pytest.raises(SessionError, match="format 99"):
        ProofreadingSession(source, path)
    (path / "session.json").write_text("{")
    with pytest.raises(SessionError, match="damaged"):
        ProofreadingSession(source, path)


def test_the_second_to_open_a_session_only_looks(edited):
    source, path, luts = edited
    with ProofreadingSession(source, path) as first:
        second = ProofreadingSession(source, path)
        assert second.read_only
        assert f"process {os.getpid()} on {socket.gethostname()}" in second.messages[0]
        np.testing.assert_array_equal(second.lut, luts[-1])
        for edit in (lambda: second.isolate(4), second.undo, lambda: second.go_to(1)):
            with pytest.raises(ReadOnlyError, match="being edited by process"):
                edit()
        np.testing.assert_array_equal(second.lut, luts[-1])
        second.close()
        first.isolate(4)
    with ProofreadingSession(source, path) as third:
        assert not third.read_only


def test_opened_for_reading_it_leaves_no_trace(edited):
    source, path, _ = edited
    log = path / "edits.jsonl"
    log.write_bytes(log.read_bytes()[:-3])
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    session = ProofreadingSession(source, path, read_only=True)
    with pytest.raises(ReadOnlyError, match="opened for reading"):
        session.isolate(4)
    session.close()
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    with pytest.raises(SessionError, match="no session"):
        ProofreadingSession(source, path / "nowhere", read_only=True)
    assert not (path / "nowhere").exists()


def test_after_closing_it_cannot_be_edited(edited):
    source, path, _ = edited
    session = ProofreadingSession(source, path)
    session.close()
    with pytest.raises(ReadOnlyError):
        session.isolate(4)
    session.close()


def write_lock(path, **changes):
    us = Holder.of_this_process()
    path.write_text(json.dumps({**dataclasses.asdict(us), **changes}))


class TestLock:
    def test_of_a_process_that_is_no_more_is_taken(self, tmp_path):
        lock = tmp_path / "lock"
        child = psutil.Popen(["sleep", "60"]) if os.name == "posix" else None
        if child is None:
            pytest.skip("needs a process to end")
        started = child.create_time()
        write_lock(lock, pid=child.pid, started=started)
        assert not SessionLock(lock).is_ours
        child.kill()
        child.wait()
        assert SessionLock(lock).is_ours

    def test_of_a_process_id_that_was_used_again_is_taken(self, tmp_path):
        write_lock(tmp_path / "lock", started=1.0)
        assert SessionLock(tmp_path / "lock").is_ours

    def test_of_another_computer_is_respected_until_taken_over(self, tmp_path):
        lock = tmp_path / "lock"
        write_lock(lock, host="elsewhere", pid=1)
        ours = SessionLock(lock)
        assert not ours.is_ours
        assert "process 1 on elsewhere" in ours.message()
        assert SessionLock(lock, take_over=True).is_ours

    def test_half_written_is_respected_while_it_may_be_going_on(self, tmp_path):
        lock = tmp_path / "lock"
        lock.write_text("")
        assert not SessionLock(lock).is_ours
        long_ago = time.time() - 60
        os.utime(lock, (long_ago, long_ago))
        assert SessionLock(lock).is_ours

    def test_releasing_removes_only_our_own(self, tmp_path):
        lock = tmp_path / "lock"
        first = SessionLock(lock)
        second = SessionLock(lock, take_over=True)
        first.release()
        assert lock.exists()
        second.release()
        assert list(tmp_path.iterdir()) == []


def test_a_session_that_was_taken_over_stops_editing(edited):
    source, path, _ = edited
    first = ProofreadingSession(source, path)
    second = ProofreadingSession(source, path, take_over=True)
    assert not second.read_only
    with pytest.raises(ReadOnlyError):
        first.isolate(4)
    assert first.read_only
    second.isolate(4)
    second.close()


def test_the_folder_lies_beside_the_store(tmp_path):
    assert session_folder(tmp_path / "run.zarr") == tmp_path / "run.proofreading" / "session"
    assert session_folder(tmp_path / "run.zarr", "ana").name == "ana"
