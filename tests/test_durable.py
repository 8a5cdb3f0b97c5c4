"""What is synced is the file or folder that was named, and nothing stays open."""

import os
from pathlib import Path

import pytest

from diffps.durable import sync


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_or_a_folder_is_synced_and_closed(tmp_path: Path, broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o400)
    synced: list[tuple[int, os.stat_result]] = []

    def fsync(descriptor: int) -> None:
        synced.append((descriptor, os.fstat(descriptor)))
        if broken:
            raise OSError("the disk is gone")

    for place in (path, tmp_path):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fsync)
            if broken:
                with pytest.raises(OSError, match="the disk is gone"):
                    sync(place)
            else:
                sync(place)
        descriptor, found = synced.pop()
        assert os.path.samestat(found, place.stat())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert not synced
