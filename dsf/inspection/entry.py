"""The entry points: ``inspect`` reads the mixers of a model, ``probe`` an unknown mixer.

``stored_layer`` returns what the map of a layer is made of, for certificates of level real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import bound
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.choice import Chosen
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.examine import Examination, Progress, examine, silent
from dsf.inspection.families.registry import known_modules
from dsf.inspection.model_input import is_tokenizer, model_input
from dsf.inspection.probing.driven import Port
from dsf.inspection.probing.probe import Probe
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.results.memory import Forecast
from dsf.inspection.softmax.attention import stored_rotary_attention
from dsf.inspection.support_table import forecast


@torch.inference_mode(False)
def inspect(
    model: nn.Module | str | Path,
    *inputs: Any,
    exact: bool = False,
    tolerance: float | None = None,
    strict: bool = False,
    layers: Chosen = None,
    heads: Chosen = None,
    memory: float | None = None,
    tokens: Sequence[Sequence[str]] | Any | None = None,
    adapters: Sequence[Adapter] = (),
    probe: Mapping[str, Probe] | Sequence[str] = "auto",
    checks: str = "all",
    progress: Progress = silent,
    **named: Any,
) -> Inspection:
    """Read the token mixers of a trained model on one input, each with its reconstruction error.

    Args:
        model: a torch module, the folder of a checkpoint, a GGUF file, or a hub id. A module is
            restored to the state it had before the run.
        inputs, named: a text or several (also ``text=...``), the output of a tokenizer or another
            mapping of tensors, or what the model is called with, such as ``input_ids=...``. Models
            of transformers run with ``use_cache=False`` unless you pass it; where ``position_ids``
            start again within a row, they keep the packed sequences apart in this case alone.
            Further options are ``messages``, ``tokenizer``, ``device``, ``dtype``, ``revision``
            and ``generate``: see :data:`dsf.inspection.model_input.OPTIONS`.
        exact: run a copy of the model in float64 throughout.
        tolerance: the largest difference of a rebuilt layer from its module in float64, relative;
            1e-12 by default.
        strict: raise for the first layer that is not reproduced. By default it is listed under
            ``unsupported`` with the reason, and the other layers are read.
        layers: which layers to rebuild and keep: numbers in the order in which they run (that of
            ``dsf.inspection.support`` is the order in which the model defines them), slices,
            names, paths of modules that hold them, patterns such as ``"*.3.*"``, or several of
            these; all by default.
        heads: which heads of each, or channels where a layer has those: numbers or slices.
        memory: how many bytes the inspection may take beyond the model; by default what this
            process may still take. What is recorded and kept goes to a temporary file where it
            would not fit; ``inspection.forecast`` says what was expected.
        tokens: the text of every token, one sequence for each sample, where there is no tokenizer;
            a tokenizer here is the same as ``tokenizer``. Or the number of the axis of the inputs
            that holds tokens, where the model treats two axes alike.
        adapters: how to read modules of your own; they take precedence over those of dsf.
        probe: ``"auto"`` probes with unit values what the run shows to mix tokens and nothing
            reads (see ``dsf.probe``), with at most 1,024 forward passes of single modules for
            each and 8,192 for all; the others are listed with the reason. Paths of modules are
            probed without these limits, and only these; a mapping from paths to
            ``dsf.inspection.Probe`` also names the ports. ``()`` probes nothing.
        checks: ``"all"`` also tests on the run which modules mix tokens, what the axes of every map
            count, and whether a map is all that its module does to tokens; see
            ``Inspection.checks``. It repeats single modules, and is left out where weights are on
            several devices or on one without float64, or where calls are kept on disk. ``"none"``
            leaves it out.
        progress: a callback, called with ``("layer", 6, 24)`` before the seventh of 24 layers.

    Raises:
        LoadError: if a checkpoint is refused.
        InspectionError: if the model cannot be run on these inputs.
        InspectionMemoryError: if it would take more memory than there is; known before the run.
        NonFiniteWeightsError: if a weight is NaN or infinite.
        ReconstructionError: if a rebuilt layer does not reproduce its module and ``strict`` is
            set, or no layer is left.
        NothingCapturedError: if no layer could be read.

    >>> import dsf, torch
    >>> _ = torch.manual_seed(0)
    >>> recurrent = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True)
    >>> inspection = dsf.inspect(recurrent, torch.randn(1, 6, 3), exact=True)
    >>> [layer.name for layer in inspection]
    ['LSTM[layer 0]', 'LSTM[layer 1]']
    >>> inspection[1].map().shape  # one map for every sample and channel
    torch.Size([1, 4, 6, 6])
    >>> inspection[1].error < 1e-14
    True
    """
    if is_tokenizer(tokens) and named.get("tokenizer") is None:
        tokens, named = None, {**named, "tokenizer": tokens}
    token_axis, tokens = (tokens, None) if isinstance(tokens, int) else (None, tokens)
    if checks not in ("all", "none"):
        raise ValueError(f"checks: must be 'all' or 'none', but it is {checks!r}.")
    found = model_input(model, inputs, named, where="inspect")
    if tokens is not None:
        _check_texts(tokens, found.numbers)
    ranks = [part.ndim for part in tensors_in((found.inputs, found.named))]
    if token_axis is not None and not any(-rank <= token_axis < rank for rank in ranks):
        raise InspectionError(
            f"inspect: 'tokens' must be an axis of the inputs, which have {ranks} axes, but it is "
            f"{token_axis}; or the text of every token."
        )
    question = Examination(
        inputs=found.inputs,
        named=found.named,
        exact=exact,
        tolerance=_not_negative("tolerance", tolerance, "1e-12"),
        strict=strict,
        layers=layers,
        heads=heads,
        memory=_not_negative("memory", memory, "8e9 (bytes)"),
        tokens=found.tokens if tokens is None else tokens,
        token_axis=token_axis,
        spell=found.spell,
        name=found.identity,
        adapters=adapters,
        probe=probe,
        checks=checks,
        progress=progress,
    )
    inspection = examine(found.model, question)
    return replace(inspection, environment={**inspection.environment, **found.environment})


def memory_forecast(
    model: nn.Module,
    *inputs: Any,
    exact: bool = False,
    memory: float | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Forecast | None:
    """The memory that ``dsf.inspect`` of a model on these inputs takes, without running it.

    An estimate from the sizes of its token mixers; of plain torch code that holds more than its
    projections (Mamba's scan) that, too. Its peak excludes maps: they are computed when asked
    for, and refused where they do not fit; ``largest_maps`` and ``all_maps`` say what they take.

    Args:
        model: a torch module.
        inputs, named, exact, memory, adapters: as for ``dsf.inspect``.

    Returns:
        None where the inputs have no tokens, or the model no token mixer.

    >>> import dsf, torch
    >>> found = dsf.inspection.memory_forecast(torch.nn.LSTM(3, 4), torch.ones(6, 1, 3), memory=1e9)
    >>> found.tokens, found.fits, found.uses_disk
    (6, True, False)
    """
    wide = exact or dtype_of(model) is torch.float64
    return forecast(model, known_modules(model, adapters), inputs, named, wide=wide, memory=memory)


@torch.inference_mode(False)
def probe(
    module: nn.Module,
    *inputs: Any,
    value: str | Port | None = None,
    response: str | Port | None = None,
    exact: bool = True,
    tolerance: float | None = None,
    heads: Chosen = None,
    **named: Any,
) -> InspectedLayer:
    """The exact map of a mixer that no adapter reads, measured by replacing its values.

    What makes the weights of the map (queries, keys, decays) is frozen at its value on these
    inputs. Only the values are replaced, by unit values, in ceil(T / head width) forward passes
    where the channels of a head share a map. It is checked that the module is linear from the
    values to the response; the label of the mixer states the superposition error, whether a token
    reads later tokens (or does so by rounding alone, as behind a Fourier transform), the number of
    forward passes, and what is held: factors made of the values, and orders and choices of tokens.

    Args:
        module: one mixer to run alone. For a mixer inside a model, pass its path instead:
            ``dsf.inspect(model, ..., probe=(path,))``.
        inputs, named: what the module is called with.
        value, response: where the values enter and where the response leaves, such as
            ``"v_proj"`` and ``"out_proj(input)"``; see ``dsf.inspection.Port``. By default they
            are searched for by name and by trial.
        exact: run a copy in float64 throughout.
        tolerance: the largest relative error of the module's output when it is rebuilt.
        heads: which heads or channels to keep: numbers or slices; all by default.

    Raises:
        NothingCapturedError: if the module is not linear in its values; the message states the
            superposition error.
        ReconstructionError: if the map does not reproduce the module's output.

    >>> import dsf, torch
    >>> class Mean(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1)[:, None]
    >>> layer = dsf.probe(Mean(), torch.ones(1, 3, 4))
    >>> layer.map()[0, 0]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.3333, 0.3333, 0.3333]], dtype=torch.float64)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"probe: 'module' must be a torch module, but it is {type(module).__name__}. The mixer "
            "of a checkpoint is probed by dsf.inspect(folder, ..., probe=(path,))."
        )
    question = Examination(
        inputs=inputs,
        named=named,
        exact=exact,
        tolerance=_not_negative("tolerance", tolerance, "1e-12"),
        strict=True,
        heads=heads,
        probe={"": Probe(value=value, response=response)},
    )
    return examine(module, question)[0]


def _not_negative(name: str, value: float | None, example: str) -> float | None:
    if value is None or (isinstance(value, int | float) and value >= 0):
        return value
    raise ValueError(
        f"inspect: '{name}' is a number such as {example}, or left out, but it is {value!r}."
    )


def _check_texts(tokens: Any, numbers: Any) -> None:
    """Raise unless texts are one list for each sample, as long as the numbers of tokens."""
    rows = tokens if isinstance(tokens, Sequence) and not isinstance(tokens, str) else [tokens]
    odd = [row for row in rows if not isinstance(row, Sequence) or isinstance(row, str)]
    if odd:
        raise InspectionError(
            "inspect: 'tokens' must be one list of texts for each sample, such as "
            f"[['The', ' cat']], or a tokenizer, but it has {odd[0]!r}."
        )
    if not isinstance(numbers, Tensor) or numbers.is_floating_point() or numbers.ndim != 2:
        return
    counts = [len(row) for row in rows]
    if counts != [numbers.shape[1]] * numbers.shape[0]:
        raise InspectionError(
            f"inspect: 'tokens' has texts for {counts} tokens, but the input has "
            f"{numbers.shape[0]} samples of {numbers.shape[1]}."
        )


def stored_layer(
    model: nn.Module, name: str, *inputs: Any, head: int = 0, **named: Any
) -> StoredLayer:
    """What the map of one head, or of one channel, of a layer is made of in this run.

    The weights are those of the model; the input is what the module was given (for softmax
    attention with rotary positions also their cosines and sines), in the number type of the run.
    The map of the result is compared with that of the inspected layer.

    Args:
        model: a torch module.
        name: the path of the layer in the model, as an inspection names it.
        inputs, named: what the model is called with, for one sample without padding.
        head: which head, or channel where the layer has those.

    Raises:
        KeyError: if the inspection has no layer of that name.
        InspectionError: if the layer is not a kind that a certificate can hold.
        ReconstructionError: if the map of the result is another one than that of the layer.

    >>> import dsf, torch
    >>> from dsf.inspection import stored_layer
    >>> from dsf.models import folder
    >>> from transformers import AutoModelForCausalLM
    >>> model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    >>> tokens = torch.arange(6)[None]
    >>> layer = stored_layer(model, "model.layers.0.self_attn", input_ids=tokens)
    >>> dsf.certify.nonnegative(layer).verdict.value
    'PROVED'
    """
    module = model.get_submodule(name)
    seen: list[dict[str, Any]] = []

    def remember(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(bound(module.forward, args, named))

    with isolated(model), module.register_forward_pre_hook(remember, with_kwargs=True):
        model(*inputs, **named)
    found = inspect(model, *inputs, layers=name, checks="none", **named)[name]
    known, hidden = known_modules(model), seen[0].get("hidden_states")
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[0] != 1:
        raise InspectionError(
            f"{name}: a stored layer needs one sample of hidden states with the axes 'sample time "
            "model'. Give the model one sample."
        )
    read = known[name][0].stored if name in known else stored_rotary_attention
    if read is None:
        raise InspectionError(
            f"{name}: no certificate from stored weights is offered for the family "
            f"'{known[name][1]}'. certify.nonnegative(layer.map()) speaks of the formed map."
        )
    stored = read(module, seen[0], head)
    # The map of the layer was rebuilt in float64, from queries in the number type of the run.
    map = found.map().flatten(0, -3)[head].cpu()
    apart = float((stored.map() - map).abs().max() / map.abs().max())
    if not apart <= 64 * torch.finfo(stored.parts["input"].dtype).eps:
        raise ReconstructionError(
            f"{name}: the map of the stored weights and that of the inspected layer differ by "
            f"{apart:.1e}, so the layer does more than its stored kind, {stored.kind}, says."
        )
    return stored
