"""What a training runs on, and the energy it takes: by the counters of processors and GPUs."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]
import torch

from medtune.training.distributed import all_gather_object

POWERCAP = Path("/sys/class/powercap")
GIB = 2**30


class Meter(Protocol):
    """Counts energy."""

    def joules(self) -> float:
        """Return the energy since the last call; of the first call since the meter was made."""


class GpuMeter:
    """The energy of this process's GPU, whoever uses it, by NVIDIA's driver (NVML).

    The driver counts at intervals, so that brief phases are told apart only on average.

    Raises:
        ImportError: nvidia-ml-py is not installed.
        pynvml.NVMLError: The GPU has no such counter, as those before Volta and parts of one.
    """

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        # By its id: the driver does not count as CUDA_VISIBLE_DEVICES does.
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        self.count: Callable[[], int] = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        self.last = self.count()

    def joules(self) -> float:
        """Return the energy since the last call."""
        before, self.last = self.last, self.count()
        return float(self.last - before) / 1e3


class CpuMeter:
    """The energy of all processors of this machine, whoever uses them, without memory (RAPL).

    Raises:
        OSError: The kernel shows no such counter, or not to this user.
    """

    def __init__(self) -> None:
        # intel-rapl:0 is a processor (of AMD too), intel-rapl:0:0 a part of it.
        found = sorted(POWERCAP.glob("intel-rapl:*"))
        self.folders = [folder for folder in found if folder.name.count(":") == 1]
        if not self.folders:
            raise OSError("this machine has no RAPL counter")
        self.ranges = self._read("max_energy_range_uj")
        self.last = self._read("energy_uj")

    def _read(self, name: str) -> list[int]:
        return [int((folder / name).read_text()) for folder in self.folders]

    def joules(self) -> float:
        """Return the energy since the last call; a counter may have begun anew once."""
        before, self.last = self.last, self._read("energy_uj")
        pairs = zip(self.last, before, self.ranges, strict=True)
        return sum(now - then + (whole if now < then else 0) for now, then, whole in pairs) / 1e6


def meters() -> tuple[dict[str, Meter], dict[str, str]]:
    """Return the meters of this process by `gpu` and `cpu`, and why one is missing.

    The processors of a machine are measured by the first of its processes alone.
    """
    found: dict[str, Meter] = {}
    lacking: dict[str, str] = {}
    if torch.cuda.is_available():
        try:
            found["gpu"] = GpuMeter()
        except Exception as error:  # noqa: BLE001 - whatever is wrong: training needs no meter
            lacking["gpu"] = f"{type(error).__name__}: {error}"
    else:
        lacking["gpu"] = "there is no GPU"
    if os.environ.get("LOCAL_RANK", "0") == "0":
        try:
            found["cpu"] = CpuMeter()
        except (OSError, ValueError) as error:
            lacking["cpu"] = str(error)
    return found, lacking


def _processor() -> str:
    """Return the name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def machines() -> list[dict[str, Any]]:
    """Return what each machine of this training is; all processes must call it.

    `cores` are those this training may use, `memory_gb` and `gpus` all of the machine (in GiB)
    that it sees.
    """
    own: dict[str, Any] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / GIB, 1),
        "gpus": [
            f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB"
            for gpu in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        ],
    }
    by_host: dict[str, dict[str, Any]] = {}
    for host, facts in all_gather_object((socket.gethostname(), own)):
        by_host.setdefault(host, facts)
    return list(by_host.values())
