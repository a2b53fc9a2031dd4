"""Say what this machine can compute with."""

import os
import subprocess
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of x86 and ARM processors that multiply bfloat16
FEW = 4  # processor cores; with so few, one that vLLM keeps free for its other processes is too much


def has_gpu() -> bool:
    """Tell whether this machine has an NVIDIA device."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def cpu_has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Tell whether the processor multiplies bfloat16; without that, float32 is faster."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not BF16.isdisjoint(flags)


def few_cores() -> str:
    """Return the numbers of the cores that this process may use, as 0,1, or "" where there are more than FEW."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ",".join(map(str, cores)) if len(cores) <= FEW else ""
