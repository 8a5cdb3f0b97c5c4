"""Processes as others can know them: by machine, start of the machine, container, process id and start time."""

import contextlib
import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """``boot_id`` and ``pid_namespace`` say where ``pid`` means something: on a machine until its next start, and in a
    container of it. ``started``, in the kernel's ticks, tells apart reused ids. Empty and None where nobody tells."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: str | None

    @classmethod
    def current(cls) -> "Process":
        """This one."""
        return cls(
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid_namespace=pid_namespace(),
            pid=os.getpid(),
            started=start_time(os.getpid()),
        )

    @property
    def place(self) -> str:
        """Where process ids can be compared, as eight hex digits for the names of files."""
        return hashlib.sha256(f"{self.host}/{self.boot_id}/{self.pid_namespace}".encode()).hexdigest()[:8]


def boot_id() -> str:
    """Changes with every start of the machine; all of its containers have the same."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def pid_namespace() -> str:
    """Within which process ids mean something: containers of one machine have their own."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def start_time(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None when there is none. Tells apart reused process ids."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # a zombie writes nothing any more


def is_running(pid: int, started: str | None) -> bool:
    """True while the process that started then runs; where the system has no /proc, while any of that id does."""
    if pid < 1:
        return False
    if started is not None:
        return start_time(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
