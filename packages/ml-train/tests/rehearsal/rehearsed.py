"""A sound job of 8 processes, and what each check of a rehearsal says of it with a fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from token_files import write_tokens

from ml_data.indexed.manifest import FORMAT
from ml_train.bring_up import start_platform
from ml_train.config.flags import parse
from ml_train.config.load import attempt_config
from ml_train.planning.target import target_device
from ml_train.rehearsal import checks
from ml_train.rehearsal.finding import Finding
from ml_train.rehearsal.job import Cluster, Job
from ml_train.rehearsal.rehearse import Rehearsal, rehearse

VOCABULARY = 4096
MODEL = (
    *(
        "--model",
        "grok1-tiny",
        "--seq-length",
        "16",
        "--model-override",
        f"vocab_size={VOCABULARY}",
    ),
    *("num_layers=2", "hidden_size=16", "ffn_hidden_size=32", "num_experts=2", "kv_channels=8"),
    *("num_attention_heads=2", "num_query_groups=2"),
)
LAYOUT = (
    *("--tensor-model-parallel-size", "2", "--pipeline-model-parallel-size", "2"),
    *("--expert-model-parallel-size", "2", "--expert-tensor-parallel-size", "1"),
)
STEPS = (
    *("--global-batch-size", "8", "--train-iters", "10", "--lr-warmup-iters", "2"),
    *("--eval-iters", "1", "--eval-interval", "20", "--save-interval", "4", "--keep-last", "2"),
)
LENGTHS = [17, 40, 3, 25, 60, 9, 31, 12] * 10
FINGERPRINT = "a" * 64


def words_of(folder: Path, *more: str, data: str | None = None) -> list[str]:
    """The flags of the sound job. data: a prefix in place of the sound one; "" for none."""
    prefix = sound_data(folder) if data is None else data
    words = [*MODEL, *LAYOUT, *STEPS, "--save", str(folder / "save"), *more]
    return [*words, "--data-path", prefix, "--split", "8,2,0"] if prefix else words


def sound_data(folder: Path) -> str:
    """Some 2,000 tokens in 80 documents, with their manifest."""
    prefix = write_tokens(folder / "tokens", lengths=LENGTHS)
    write_manifest(prefix)
    return prefix


def write_manifest(prefix: str, **tokenizer: Any) -> None:
    """The manifest of a pair, its tokenizer with these facts."""
    facts = {"vocab_size": VOCABULARY, "eod_id": 2, "fingerprint": FINGERPRINT, **tokenizer}
    files = {}
    for suffix in (".bin", ".idx"):
        content = Path(prefix + suffix).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        files[Path(prefix).name + suffix] = {"bytes": len(content), "sha256": digest}
    text = {"format": FORMAT, "format_version": 1, "tokenizer": facts, "files": files}
    Path(f"{prefix}.json").write_text(json.dumps(text))


def cluster(device: str = "h100", *, nodes: int = 1, per_node: int = 8, **more: Any) -> Cluster:
    """The cluster of the sound job."""
    return Cluster(
        device=target_device(device), num_nodes=nodes, processes_per_node=per_node, **more
    )


def findings(words: Sequence[str], *modules: str, where: Cluster | None = None) -> list[Finding]:
    """What the checks in these modules say, without what is sound."""
    attempt = attempt_config(parse(words))
    assert attempt.loaded is not None and not attempt.errors, attempt.errors
    start_platform("cpu")
    job = Job(loaded=attempt.loaded, cluster=where or cluster(), progress=lambda _: None)
    asked = [check for check in checks.CHECKS if check.module in modules]
    assert len(asked) == len(modules)
    said = [finding for check in asked for finding in check.run(job)]
    assert all(finding.fix for finding in said if finding.severity != "ok")
    return [finding for finding in said if finding.severity != "ok"]


def whole(words: Sequence[str], where: Cluster | None = None) -> Rehearsal:
    """All checks, without the run at toy width."""
    start_platform("cpu")
    return rehearse(
        attempt_config(parse(words)), where or cluster(), progress=lambda _: None, toy=None
    )


def one_error(said: list[Finding], *texts: str) -> None:
    """There is an error, alone, that holds these texts."""
    errors = [finding for finding in said if finding.severity == "error"]
    assert len(errors) == 1, errors
    told = f"{errors[0].what} {errors[0].fix}"
    assert all(text in told for text in texts), told
