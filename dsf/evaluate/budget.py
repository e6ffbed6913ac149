"""How much memory a map would take, said before it is taken."""

import os

import torch


class MapTooLarge(MemoryError):
    """A map would not fit into half of the free memory."""


def free_memory(device: torch.device) -> int | None:
    """Free bytes on ``device``, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as report:
            for line in report:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def check_room(
    owner: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise if a tensor of ``shape`` would take more than half of the free memory.

    Raises:
        MapTooLarge: with the sizes in GB and the way around.
    """
    needed = dtype.itemsize
    for size in shape:
        needed *= size
    free = free_memory(device)
    if free is not None and needed > free / 2:
        raise MapTooLarge(
            f"{owner}: a map of shape {tuple(shape)} in {str(dtype).removeprefix('torch.')} takes "
            f"{needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free and half of that is the "
            f"limit. Ask for some rows (rows=slice(0, 64)), or fold over dsf.row_blocks(system): "
            f"the measures do that by themselves."
        )
