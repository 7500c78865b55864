"""Fields of config.json that several architectures read in the same way."""

from collections.abc import Mapping

from ml_models.errors import WeightError


def named_architecture(values: Mapping[str, object]) -> str:
    """The first entry of `architectures`; "" for a config.json that names none."""
    named = values.get("architectures")
    if isinstance(named, str):
        return named
    return str(named[0]) if isinstance(named, list) and named else ""


def head_size(values: Mapping[str, object], where: str) -> int:
    """head_dim, or hidden_size divided by the number of heads."""
    head, hidden, heads = (
        values.get(name) for name in ("head_dim", "hidden_size", "num_attention_heads")
    )
    if head is not None:
        if type(head) is not int:
            raise WeightError(f"{where}: head_dim is {head!r}; it must be a whole number.")
        return head
    if type(heads) is not int or type(hidden) is not int or heads < 1 or hidden % heads:
        raise WeightError(f"{where}: hidden_size {hidden} is no multiple of {heads} heads.")
    return hidden // heads


def plain_rope_base(values: Mapping[str, object], where: str, default: float) -> float:
    """RoPE's base, `default` where config.json gives none or null.

    Its key is `rope_theta`, since transformers 5 inside `rope_parameters`. Raises WeightError for
    scaled positions, which no model here computes.
    """
    bases = {"rope_theta": values.get("rope_theta")}
    for name in ("rope_parameters", "rope_scaling"):
        entry = values.get(name)
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise WeightError(f"{where}: {name} is {entry!r}; it must be an object or null.")
        _refuse_scaling(entry, f"{where}: {name}")
        bases[f"{name}.rope_theta"] = entry.get("rope_theta")
    numbers: dict[str, float] = {}
    for name, base in bases.items():
        if base is None:
            continue
        if isinstance(base, bool) or not isinstance(base, (int, float)) or base <= 0:
            raise WeightError(f"{where}: {name} is {base!r}; it must be a number above 0.")
        numbers[name] = base
    if len(set(numbers.values())) > 1:
        bases_in_words = " and ".join(f"{name} {base:g}" for name, base in numbers.items())
        raise WeightError(f"{where}: {bases_in_words} contradict; keep the one that the model had.")
    return float(next(iter(numbers.values()), default))


def _refuse_scaling(entry: Mapping[str, object], where: str) -> None:
    kind = entry.get("rope_type") or entry.get("type") or "default"
    factor, part = entry.get("factor"), entry.get("partial_rotary_factor")
    plain = kind in ("default", "linear", "dynamic") and factor in (None, 1)
    if kind in ("linear", "dynamic") and factor is None:
        plain = False
    if plain and part in (None, 1):
        return
    details = ", ".join(f"{key} {value}" for key, value in entry.items())
    raise WeightError(
        f"{where} says {details}: RoPE is scaled; only the plain form is known (rope_type default)."
    )


def ties_output(values: Mapping[str, object], where: str, default: bool) -> bool:
    """Whether the output has the embedding's weight; `default` where config.json does not say."""
    tied = values.get("tie_word_embeddings")
    if tied is None:
        return default
    if not isinstance(tied, bool):
        raise WeightError(f"{where}: tie_word_embeddings is {tied!r}; it must be true or false.")
    return tied
