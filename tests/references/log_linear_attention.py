"""Log-linear attention: one memory for every level, merged as a binary counter carries."""

import torch


def reference(m):
    memories, out = [], []
    for t in range(m.value.shape[-2]):
        fade = torch.exp(m.log_decay[..., t])[..., None, None]
        memories = [None if held is None else fade * held for held in memories]
        if t > 0:
            place = 0
            while (t >> place) % 2 == 0:
                place += 1
            merged = sum(held for held in memories[: place + 1] if held is not None)
            memories = [None] * (place + 1) + [merged] + memories[place + 2 :]
        new = m.key[..., t, :, None] * m.value[..., t, None, :]
        memories = [new, *memories[1:]]
        out.append(0 if m.feedthrough is None else m.feedthrough[..., None] * m.value[..., t, :])
        for level, held in enumerate(memories):
            if held is not None:
                seen = torch.einsum("...k,...kc->...c", m.query[..., t, :], held)
                out[-1] = out[-1] + m.level_scale[..., t, level, None] * seen
    return torch.stack(out, dim=-2)
