"""A child process that reads damaged images: `python mutations.py FOLDER SUFFIX COUNT SEED`.

Files in FOLDER that end in SUFFIX are damaged, COUNT times in all, and read. Only ImageError may come of it, within ten
seconds (SIGPROF ends the process) and a gigabyte. Prints how many were read and refused, and the peak in megabytes.
"""

import random
import signal
import sys
from pathlib import Path

from diffps.datasets.files import measure_image
from diffps.errors import ImageError
from diffps.images import load_image

SECONDS = 10
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0)


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four damages of ``data``, most of them near its beginning, where sizes and offsets lie."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        span = len(found) if rng.random() < 0.5 else min(len(found), 256)
        at = rng.randrange(span) if span else 0
        match rng.randrange(7):
            case 0:
                found[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                found[at : at + 1] = bytes([(found[at] if at < len(found) else 0) ^ 1 << rng.randrange(8)])
            case 2:
                size = rng.choice((1, 2, 4))
                number = rng.choice(NUMBERS) & (1 << 8 * size) - 1
                found[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
            case 3:
                del found[at : at + rng.randint(1, 64)]
            case 4:
                found[at:at] = found[at : at + rng.randint(1, 64)]
            case 5:
                start = rng.randrange(len(other))
                found[at : at + rng.randint(1, 64)] = other[start : start + rng.randint(1, 64)]
            case 6:
                del found[at:]
    return bytes(found)


def peak_mb() -> int:
    """Of this process alone: ru_maxrss begins with what the process that started it held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def main(folder: Path, suffix: str, count: int, seed: int) -> None:
    sources = [path.read_bytes() for path in sorted(folder.glob(f"*{suffix}"))]
    rng = random.Random(f"{suffix} {seed}")
    path = folder / "mutated.bin"
    outcomes = {"read": 0, "refused": 0}
    for number in range(count):
        path.write_bytes(mutated(rng.choice(sources), rng.choice(sources), rng))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of processor time: machines that run tests are busy
        for read in (measure_image, load_image):
            try:
                read(path)
                outcomes["read"] += 1
            except ImageError as error:
                outcomes["refused" if "\n" not in str(error) else "of several lines"] += 1
            except BaseException:
                print(f"mutation {number} of {suffix}, seed {seed}", file=sys.stderr)
                raise
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(outcomes["read"], outcomes["refused"], peak_mb())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
