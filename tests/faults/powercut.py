"""A small ext4 file system in a file, whose power can be cut: what was not made durable by then is gone.

Needs root, a loop device and Linux's forced shutdown of ext4. Nothing is committed on its own meanwhile, and replacing
by rename is not made safe behind the writer's back, so what survives was synced.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType

import pytest

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_JOURNAL = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
OPTIONS = "loop,commit=600,noauto_da_alloc"


class Disk:
    """Mounted at ``path`` from ``with`` to its end; skips the test where that cannot be done."""

    def __init__(self, folder: Path, megabytes: int = 64) -> None:
        self.path, self._image, self._size = folder / "disk", folder / "disk.img", megabytes << 20

    def __enter__(self) -> "Disk":
        if os.name != "posix" or os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            pytest.skip("power cuts need root and mkfs.ext4")
        self.path.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(self._size)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Lazily: a mount that stays behind is in the way of whoever clears the folder.
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)
        self._image.unlink()

    def cut(self) -> None:
        """Cut the power. Whoever writes gets errors from now on; :meth:`restore` needs them to be gone."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
        except OSError as error:
            pytest.skip(f"this kernel cuts no power: {error}")
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Start the machine again."""
        _run("umount", str(self.path))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", OPTIONS, str(self._image), str(self.path))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]}: {done.stderr.strip()}")
