"""Folders and tensors that are not read: what they are, and what their owner can do.

Users have adapters, quantized weights, the hub's cache and other programs' formats. A message that
says only that a file is missing does not help them.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from ml_models.weights.listed import DTYPES, ListedTensor

ADAPTER = "adapter_config.json"
# A name such as mistralai/Mixtral-8x7B-v0.1, which is no path of this machine.
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Tensors that GPTQ, AWQ, compressed-tensors, bitsandbytes and FP8 libraries add to a layer.
_QUANTIZED = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_scale(_inv)?|weight_packed|SCB|weight_format"
    r"|weight\.(absmax|quant_map|quant_state.*|nested_.*)|input_scale)"
)
# Names of peft.
_ADAPTED = re.compile(r".*\.lora_(A|B|embedding_A|embedding_B)\..*")
# transformers 5 keeps the experts of a layer in one tensor, in memory and in some saved folders.
_FUSED = re.compile(r"model\.layers\.\d+\.mlp\.experts\.(gate_up_proj|down_proj)")
# The format that Mistral publishes beside the one of transformers.
_MISTRALS = re.compile(r"(tok_embeddings|layers\.\d+\.attention\.w[qkvo])\.weight")
_FOREIGN = (  # file name, what it is
    ("*.gguf", "llama.cpp's format"),
    ("consolidated*.pth", "its publisher's own format"),
    ("consolidated*.pt", "its publisher's own format"),
    ("tf_model*.h5", "TensorFlow's format"),
    ("flax_model*.msgpack", "Flax's format"),
    ("*.onnx", "ONNX"),
    ("*.nemo", "NeMo's archive"),
    ("*.ckpt", "a checkpoint of a trainer"),
)
_SHOWN = 5


def explain_folder(folder: Path) -> str | None:
    """What a folder without readable weights is; None for nothing known."""
    if not folder.exists():
        if _REPOSITORY.fullmatch(str(folder)):
            return (
                f"{folder}: no such folder; if it is a repository of Hugging Face's, fetch it "
                f"first: hf download {folder} --local-dir {folder.name}."
            )
        return f"{folder}: no such folder."
    if not folder.is_dir():
        return f"{folder}: a file; give the folder that holds it, {folder.parent}."
    names = sorted(path.name for path in folder.iterdir())
    reasons = (
        _adapter(folder, names),
        _hub_cache(folder, names),
        _deepspeed(folder, names),
        _foreign_files(folder),
        _in_subfolders(folder),
    )
    return next((reason for reason in reasons if reason is not None), None)


def listing(folder: Path) -> str:
    """The first names of a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _adapter(folder: Path, names: Collection[str]) -> str | None:
    if ADAPTER not in names and not any(name.startswith("adapter_model") for name in names):
        return None
    base = read_quietly(folder / ADAPTER).get("base_model_name_or_path")
    of = f" of {base}" if isinstance(base, str) and base else ""
    return (
        f"{folder}: an adapter{of} (LoRA or alike), not a whole model; merge it into its base "
        "first (peft: merge_and_unload, then save_pretrained) and convert that folder."
    )


def _hub_cache(folder: Path, names: Collection[str]) -> str | None:
    models = sorted(name for name in names if name.startswith("models--"))
    if models:
        return _hub_cache(folder / models[0], ())
    snapshots = folder / "snapshots"
    if folder.name == "snapshots":
        snapshots = folder
    elif not snapshots.is_dir():
        return None
    main = snapshots.parent / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    paths = sorted(path for path in snapshots.iterdir() if path.is_dir())
    chosen = [path for path in paths if path.name == revision] or paths
    if not chosen:
        return f"{folder}: the hub's cache without a snapshot; fetch the model again."
    return f"{folder}: the hub's cache; the weights are in {chosen[0]}: give that folder."


def _deepspeed(folder: Path, names: Collection[str]) -> str | None:
    if "zero_to_fp32.py" not in names:
        return None
    return (
        f"{folder}: a checkpoint of DeepSpeed's ranks; run its zero_to_fp32.py, put config.json "
        "beside the pytorch_model.bin that it makes, and convert that folder."
    )


def _foreign_files(folder: Path) -> str | None:
    for pattern, what in _FOREIGN:
        paths = sorted(folder.glob(pattern))
        if paths:
            return (
                f"{folder}: its weights are {paths[0].name}, {what}, which is not read; fetch or "
                "save the model as safetensors files with a config.json."
            )
    return None


def _in_subfolders(folder: Path) -> str | None:
    inner = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and (any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*")))
    ]
    if not inner:
        return None
    shown = ", ".join(str(path) for path in inner[:_SHOWN])
    return f"{folder}: no weights in it, but in {shown}: give that folder."


def explain_tensors(
    tensors: Mapping[str, ListedTensor],
    values: Mapping[str, object],
    *,
    tied: bool,
    needed: set[str],
) -> str | None:
    """Why tensors are not those of the model; None for no known reason.

    values: of config.json, empty without one. needed: the names of the model's tensors.
    """
    facts: Iterable[tuple[bool, Callable[[], str]]] = (
        (any(map(_ADAPTED.fullmatch, tensors)), _tell_adapted),
        (any(map(_MISTRALS.fullmatch, tensors)), lambda: _tell_mistrals(tensors)),
        (any(name not in needed for name in filter(_FUSED.fullmatch, tensors)), _tell_fused),
        (bool(_quantized(tensors, needed)), lambda: _tell_quantized(tensors, values, needed)),
        (needed - set(tensors) == {"lm_head.weight"} and not tied, _tell_untied),
    )
    return next((say() for holds, say in facts if holds), None)


def _quantized(tensors: Mapping[str, ListedTensor], needed: set[str]) -> list[str]:
    """Names of quantized weights: scales and packed numbers, or weights of narrow dtypes."""
    return [
        name
        for name, tensor in tensors.items()
        if _QUANTIZED.fullmatch(name) or (name in needed and _is_narrow(tensor.dtype))
    ]


def _is_narrow(dtype: str) -> bool:
    """Integers and floats of one byte or less."""
    return dtype not in DTYPES and dtype.startswith(("F8", "F6", "F4", "I8", "U8", "I32", "U32"))


def _tell_quantized(
    tensors: Mapping[str, ListedTensor], values: Mapping[str, object], needed: set[str]
) -> str:
    settings = values.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    first = sorted(_quantized(tensors, needed))[0]
    by = f" with {method}" if isinstance(method, str) else ""
    return (
        f"the weights are quantized{by} ({first} is {tensors[first].dtype}), which is not read; "
        "take the model's unquantized folder, or dequantize it with the library that made it"
    )


def _tell_adapted() -> str:
    return (
        "the tensors are an adapter's (lora_A, lora_B), not a whole model's; merge them into "
        "their base first (peft: merge_and_unload, then save_pretrained)"
    )


def _tell_mistrals(tensors: Mapping[str, ListedTensor]) -> str:
    file = next(iter(tensors.values())).path.name
    return (
        f"{file} has the names of Mistral's own format (layers.0.attention.wq.weight), whose query "
        "and key rows lie in another order, so it is not read; take the model-*.safetensors files "
        "that are published beside it"
    )


def _tell_fused() -> str:
    return (
        "the experts of a layer lie in one tensor (mlp.experts.gate_up_proj), as transformers 5 "
        "has them in memory; save the model with save_pretrained and its default "
        "save_original_format=True"
    )


def _tell_untied() -> str:
    return (
        "lm_head.weight is missing, and the configuration says that the output has a weight of its "
        "own; set tie_word_embeddings to true if it is the embedding's"
    )


def read_quietly(path: Path) -> Mapping[str, object]:
    """A JSON object that only adds detail to a message; empty where it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
