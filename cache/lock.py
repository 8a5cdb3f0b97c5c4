"""One writer per (split, view, recipe): a lock file that says who holds it.

The owner touches the file every few seconds (heartbeat). Where its process id can be looked up, a dead owner's lock is
taken over and a live one is named. Of another machine only the heartbeat can be judged, and the user has to say so; of
one that has this machine's name, but not its boot or process ids (a restart, another container), silence is enough.
"""

import contextlib
import json
import os
import shlex
import sys
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from cache.errors import FileError, LockedError
from cache.files import remove, write_text
from cache.guard import SILENT_SECONDS, exclusive, read_owner, shares_process_ids, silence
from cache.layout import GroupKey
from cache.process import Process, is_running

HEARTBEAT_SECONDS = 10.0


def lock_file(root: Path, group: GroupKey) -> Path:
    """The lock that covers ``group`` in the store at ``root``."""
    return root / "locks" / f"{group.scope.replace('/', '~')}.json"


class StoreLock:
    """Exclusive right to write below one scope, held from ``with`` to its end. Raises LockedError on entry.

    ``here`` is the process that asks: this one, unless a test says otherwise.
    """

    def __init__(self, path: Path, *, takeover: bool = False, here: Process | None = None) -> None:
        self._path, self._takeover, self._here = path, takeover, here or Process.current()
        # Reading, judging and replacing a lock is one step, also between processes.
        self._guard = path.with_name(".guard")
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def __enter__(self) -> "StoreLock":
        with exclusive(self._guard):
            owner = read_owner(self._path)
            if owner is not None:
                self._refuse_if_alive(owner)
            since, command = time.strftime("%Y-%m-%d %H:%M:%S"), shlex.join(sys.argv)[:300]
            me = {**asdict(self._here), "command": command, "since": since, "token": self._token}
            try:
                write_text(self._path, json.dumps(me, indent=1))
            except FileError:
                with contextlib.suppress(FileError):  # it may have its name already
                    self._release()
                raise
        self._heartbeat = threading.Thread(target=self._beat, name=f"heartbeat {self._path.name}", daemon=True)
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        # What went wrong inside matters more than a lock file that stays: its owner will be dead.
        with contextlib.suppress(*(() if kind is None else (FileError,))), exclusive(self._guard):
            self._release()

    @property
    def held(self) -> bool:
        """False once somebody took the lock over."""
        owner = read_owner(self._path)
        return owner is not None and owner.get("token") == self._token

    def check(self) -> None:
        """Raise LockedError when somebody took the lock over meanwhile; called before anything is published."""
        if not self.held:
            raise LockedError(f"{self._path}: was taken over while this process held it; nothing more is written")

    def _release(self) -> None:
        if self.held:
            remove(self._path)

    def _refuse_if_alive(self, owner: dict[str, Any]) -> None:
        try:
            silent = silence(self._path, self._guard)
        except FileNotFoundError:
            return
        who = f"process {owner.get('pid')} on {owner.get('host')} ({owner.get('command')}, since {owner.get('since')})"
        same_name = owner.get("host") == self._here.host
        if shares_process_ids(owner, self._here):
            if is_running(int(owner.get("pid", -1)), owner.get("started")):
                raise LockedError(f"{self._path}: {who} is still writing; wait for it, or `kill {owner.get('pid')}`")
        elif silent < SILENT_SECONDS:
            raise LockedError(
                f"{self._path}: {who} is writing, last heard of {silent:.0f} s ago; wait for it, "
                f"or {SILENT_SECONDS:.0f} s if it is dead"
            )
        elif not same_name and not self._takeover:
            raise LockedError(
                f"{self._path}: {who} was last heard of {silent:.0f} s ago and cannot be checked from here; "
                "if it is dead, run again with --set runtime.takeover=true"
            )

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                if self.held:
                    os.utime(self._path)
