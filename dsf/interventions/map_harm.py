"""What a smaller memory of keys does to a loss: derivatives along a gate between two maps.

For a key-value group and a form the change of the response is contracted with the gradient of the
loss, token by token. The sum is the first order of the harm, the squares are the second (an
empirical Fisher information). All forms of a row come from two running sums over its keys.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad, scaled_dot_product_attention

from dsf.inspection.errors import InspectionError
from dsf.interventions.kept_keys import KeptForm, StateFeatures

DECAYS = (1.0, 0.998, 0.98)
"""Factors of forgetting per token among which a state's is chosen."""
MAX_CENTRED = 4096
"""Maximum number of keys of a group from which anchors are made."""
ROUNDS = 10
"""Rounds of Lloyd's algorithm."""
FIT_ROWS = 128
"""Number of rows of each text from which the scales of a state are fitted."""
MAX_EXPONENT = 60.0
"""Maximum exponent of an entry of a state, relative to the largest score of its row."""
BLOCK_ENTRIES = 2**22
"""Number of entries of a block of rows of the maps of a group."""
IGNORED = -100
"""Label of tokens that do not count, as in transformers."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Scaled queries and keys of one layer or group on one text, and the gradient at its response.

    ``counted`` is the number of tokens of which the loss is the mean.
    """

    query: Float[Tensor, "*group head time key"]
    key: Float[Tensor, "*group time key"]
    value: Float[Tensor, "*group time value"]
    adjoint: Float[Tensor, "*group head time value"]
    counted: int

    def of(self, group: int) -> "Maps":
        query, key, value, adjoint, counted = vars(self).values()
        return Maps(query[group], key[group], value[group], adjoint[group], counted)

    def blocks(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Blocks of rows: their positions, their scores, and the derivative along each entry."""
        steps = self.key.shape[-2]
        size = max(1, BLOCK_ENTRIES // (steps * len(self.query)))
        for rows in torch.arange(steps, device=self.key.device).split(size):
            ahead = torch.arange(steps, device=self.key.device) > rows.unsqueeze(-1)
            scores = (self.query[:, rows] @ self.key.mT).masked_fill_(ahead, -torch.inf)
            yield rows, scores, self.adjoint[:, rows] @ self.value.mT


def recorded(
    model: Any,
    text: Tensor,
    labels: Tensor,
    planned: Mapping[str, Sequence[tuple[KeptForm, StateFeatures | None]]] | None = None,
) -> dict[str, Maps]:
    """Run the model on one text, and return what its softmax layers did, by path."""
    from dsf.interventions.kept_cache import UNREAD, LinearisedLayer, twin

    found: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def attention(
        path: str,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if any(options.get(name) is not None for name in UNREAD) or mask is not None:
            return fallback(module, query, key, value, mask, scaling=scaling, **options)
        if path in found or not getattr(module, "is_causal", True):
            raise InspectionError(
                f"linearise: {path} expected one causal call for a text, got another. Such a layer "
                "cannot keep a part of its keys."
            )
        shared = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        response = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if planned is not None and path in planned:
            under_plan = LinearisedLayer(planned[path]).read(query, key, value, scale)
            response = (response + under_plan.transpose(1, 2)) / 2
        gate = torch.zeros_like(response, requires_grad=True)
        grouped = (query[0] * scale).detach().unflatten(0, (key.shape[1], shared))
        found[path] = (grouped, key[0].detach(), value[0].detach(), gate)
        return (response + gate).transpose(1, 2), None

    from transformers.integrations.sdpa_attention import sdpa_attention_forward as fallback

    paths = [name for name, module in model.named_modules() if hasattr(module, "layer_idx")]
    copied = twin(model, {path: partial(attention, path) for path in paths})
    with torch.inference_mode(False), torch.enable_grad():
        logits = copied(input_ids=text[None].clone(), use_cache=False).logits[0]
        if not found:
            raise InspectionError(
                f"linearise: expected softmax attention through transformers' attention interface, "
                f"got {type(model).__name__} without. For recurrent layers there is "
                f"dsf.interventions.reduce_states."
            )
        loss = cross_entropy(full_precision(logits[:-1]), labels[1:], ignore_index=IGNORED)
        gradients = torch.autograd.grad(loss, [gate for *_, gate in found.values()])
    counted = int((labels[1:] != IGNORED).sum())
    return {
        path: Maps(query, key, value, gradient[0].unflatten(0, query.shape[:2]), counted)
        for (path, (query, key, value, _)), gradient in zip(found.items(), gradients, strict=True)
    }


def compared(
    maps: Maps, forms: Sequence[KeptForm], features: Mapping[KeptForm, StateFeatures]
) -> tuple[Float[Tensor, " form"], Float[Tensor, " form"]]:
    """The predicted harm of every form, and the largest distance of a row of its maps.

    The harm is the derivative of the loss along the gate, and half of its Fisher information. The
    sums run in float64: a window is the difference of two running sums.
    """
    changes = torch.zeros(len(forms), dtype=torch.float64, device=maps.key.device)
    distances = torch.zeros_like(changes)
    # rounding of scores, exponentials and sums, far above what float32 does to a row
    slack = 8 * torch.finfo(maps.key.dtype).eps * len(maps.key)
    for rows, scores, signal in maps.blocks():
        top = scores.amax(dim=-1, keepdim=True)
        mass = scores.sub_(top).exp_()
        sums = [_running(mass), _running(mass * signal)]
        total, whole = sums[0][..., -1], sums[1][..., -1] / sums[0][..., -1]
        for number, form in enumerate(forms):
            if form.window is None:
                continue
            spans = [_kept(each, rows, form) for each in sums]
            if form in features:
                replaced = between_entries(maps, features[form], form, rows, top)
                entries = spans[0] + replaced.sum(dim=-1, dtype=torch.float64)
                weighted = (replaced * signal).sum(dim=-1, dtype=torch.float64)
                change = (spans[1] + weighted) / entries - whole
                here, there = ((1 / each).to(mass).unsqueeze(-1) for each in (entries, total))
                apart = replaced.mul_(here).sub_(mass * there).abs_()
                apart = apart.masked_fill_(~is_between(rows, form, len(maps.key)), 0)
                kept = spans[0] * (1 / entries - 1 / total).abs()
                distance = (apart.sum(dim=-1, dtype=torch.float64) + kept) / 2
            else:
                change = spans[1] / spans[0] - whole
                distance = 1 - spans[0] / total
            by_token = change.sum(dim=0)
            changes[number] += by_token.sum() + maps.counted / 2 * by_token.square().sum()
            distances[number] = distances[number].maximum((distance.max() + slack).clamp(max=1))
    return changes, distances


def _running(entries: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, ... entries of every row."""
    return pad(entries.cumsum(dim=-1, dtype=torch.float64), (1, 0))


def _kept(sums: Tensor, rows: Tensor, form: KeptForm) -> Tensor:
    """Sum over what a form keeps of every row, from running sums."""
    first = (rows + 1 - (form.window or 0)).clamp_min(0)
    ends = sums.gather(-1, (rows + 1).expand(sums.shape[:-1]).unsqueeze(-1))
    begins = sums.gather(-1, first.expand(sums.shape[:-1]).unsqueeze(-1))
    sinks = sums.gather(-1, first.clamp_max(form.sinks).expand(sums.shape[:-1]).unsqueeze(-1))
    return (ends - begins + sinks).squeeze(-1)


def is_between(rows: Tensor, form: KeptForm, steps: int) -> Tensor:
    """Which keys of every row are behind the first ones and before the window."""
    columns = torch.arange(steps, device=rows.device)
    return (columns >= form.sinks) & (columns <= rows.unsqueeze(-1) - (form.window or 0))


def between_entries(
    maps: Maps, features: StateFeatures, form: KeptForm, rows: Tensor, top: Tensor
) -> Float[Tensor, "head row column"]:
    """What a state makes of the entries between, relative to the largest score of each row."""
    nearest = features.nearest(maps.key.unsqueeze(0))[0]
    scores = (maps.query[:, rows] @ features.anchors[0].mT)[..., nearest]
    age = rows.unsqueeze(-1) - (form.window or 0) - torch.arange(len(nearest), device=rows.device)
    bias = features.log_scale[0, nearest] + features.log_decay[0] * age
    # an anchor may lie far above every key of a row
    entries = scores.sub_(top).add_(bias).clamp_max_(MAX_EXPONENT)
    return entries.masked_fill_(~is_between(rows, form, len(nearest)), -torch.inf).exp_()


def anchors_of(maps: Sequence[Maps], count: int) -> Float[Tensor, "feature key"]:
    """Centres of the keys of all texts, by Lloyd's algorithm."""
    keys = torch.cat([one.key for one in maps])
    keys = keys[:: -(-len(keys) // MAX_CENTRED)]
    anchors = keys[torch.linspace(0, len(keys) - 1, count).long()].clone()
    for _ in range(ROUNDS):
        half = anchors.square().sum(dim=-1) / 2
        nearest = (keys @ anchors.mT - half).argmax(dim=-1)
        chosen = one_hot(nearest, count).to(keys)
        number = chosen.sum(dim=0).unsqueeze(-1)
        anchors = torch.where(number > 0, chosen.mT @ keys / number.clamp_min(1), anchors)
    return anchors


def fitted(
    form: KeptForm, maps: Sequence[Maps], anchors: Float[Tensor, "feature key"]
) -> StateFeatures:
    """The features of a state with these anchors: scales, which are positive, by least squares."""
    best: tuple[float, StateFeatures] | None = None
    for decay in DECAYS:
        plain = StateFeatures(
            anchors.unsqueeze(0),
            torch.zeros(1, form.features).to(anchors),
            torch.tensor([decay]).log().to(anchors),
        )
        own = torch.zeros(form.features, dtype=torch.float64, device=anchors.device)
        square, target = own.clone(), 0.0
        for one in maps:
            rows = torch.linspace(0, len(one.key) - 1, min(FIT_ROWS, len(one.key))).long()
            rows = rows.to(anchors.device)
            scores = one.query[:, rows] @ one.key.mT
            scores = scores.masked_fill(
                torch.arange(len(one.key), device=rows.device) > rows.unsqueeze(-1), -torch.inf
            )
            top = scores.amax(dim=-1, keepdim=True)
            mass = (scores - top).double().exp()
            total = mass.sum(dim=-1, keepdim=True)
            chosen = one_hot(plain.nearest(one.key.unsqueeze(0))[0], form.features).double()
            made = between_entries(one, plain, form, rows, top).double() / total @ chosen
            true = mass * is_between(rows, form, len(one.key)) / total @ chosen
            own += (made * true).sum(dim=(0, 1))
            square += (made * made).sum(dim=(0, 1))
            target += true.square().sum().item()
        scale = (own / square.clamp_min(1e-300)).clamp(1e-6, 1e6)
        error = target - (2 * scale * own - scale.square() * square).sum().item()
        if best is None or error < best[0]:
            log_scale = scale.log().unsqueeze(0).to(anchors)
            best = (error, StateFeatures(plain.anchors, log_scale, plain.log_decay))
    assert best is not None  # noqa: S101 (DECAYS is not empty)
    return best[1]


def full_precision(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
