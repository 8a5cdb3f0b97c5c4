"""Time and memory of two implementations of one thing, in turns."""

import statistics
import time
from collections.abc import Callable

import torch
from backbone_common import peak_bytes
from torch import Tensor

Run = Callable[[], list[Tensor]]


class Measured:
    """One part: a forward and backward of ours and of the plain one, on inputs of their own layout."""

    def __init__(self, name: str, ours: Run, plain: Run) -> None:
        self.name, self.ours, self.plain = name, ours, plain

    def compare(self) -> float:
        """Largest distance between the two sides' outputs and input gradients, relative to their length."""
        return max(float((a - b).norm() / b.norm()) for a, b in zip(self.ours(), self.plain(), strict=True) if b.any())


def timed(run: Run, device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and seconds of processor time, which other programs on the machine disturb less."""
    start, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


def measure(measured: Measured, repeats: int, device: torch.device) -> dict[str, object]:
    sides = {"ours": measured.ours, "plain": measured.plain}
    row: dict[str, object] = {"part": measured.name, "largest_relative_difference": measured.compare()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            seconds[name].append(timed(run, device))
    for name, run in sides.items():
        clock, cpu = zip(*seconds[name], strict=True)
        row[name] = {
            "seconds": statistics.median(clock),
            "fastest": min(clock),
            "slowest": max(clock),
            "cpu_seconds": statistics.median(cpu),
            "peak_bytes": peak_bytes(run, device.type),
        }
    for ratio, number in (("time", "seconds"), ("cpu_time", "cpu_seconds"), ("memory", "peak_bytes")):
        row[f"{ratio}_ratio"] = row["ours"][number] / row["plain"][number]
    return row


def show(row: dict[str, object]) -> None:
    ours, plain = row["ours"], row["plain"]
    print(
        f"{row['part']:14} {ours['seconds']:9.3f} {plain['seconds']:9.3f} {row['time_ratio']:6.2f}x"
        f" {ours['cpu_seconds']:9.3f} {plain['cpu_seconds']:9.3f} {row['cpu_time_ratio']:6.2f}x"
        f" {ours['peak_bytes'] / 2**20:9.0f} {plain['peak_bytes'] / 2**20:9.0f} {row['memory_ratio']:6.2f}x"
        f"   {row['largest_relative_difference']:.1e}",
        flush=True,
    )
