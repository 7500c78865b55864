"""Which id ends a document and which begins a text, when several files have a say.

Each file that names the token makes a claim. The claims must leave exactly one id. If they do not,
a run that needs the token is refused, and the message names the two files that disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ml_data.errors import TokenizerError
from ml_data.tokenizers.protocol import TokenClaim, Tokenizer, Vocabulary
from ml_data.tokenizers.side_files import CONFIG, GENERATION, MAP, MODEL_CONFIG, SideFiles

# Classes of transformers that put the beginning token in front unless `add_bos_token` is false.
_ADD_BOS_BY_DEFAULT = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """The id of a role, or the reason why there is none."""

    id: int | None = None
    fault: str = ""


def settle(
    tokenizer: Tokenizer,
    side: SideFiles,
    *,
    eod_token: str | None = None,
    eod_id: int | None = None,
) -> None:
    """Set `eod_id`, `bos_id`, their faults and `frame` of a tokenizer from all that names them.

    `eod_token` or `eod_id` is the user's choice and outranks every file. Raises TokenizerError when
    the tokenizer has no such token.
    """
    if eod_token is not None or eod_id is not None:
        eod = TokenChoice(id=_named_by_user(tokenizer, eod_token, eod_id))
    else:
        claims = tokenizer.own_claims.get("eos", []) + side.claims("eos")
        tokenizer.names_eod = bool(claims)
        claims = claims or tokenizer.default_claims.get("eos", [])
        eod = choose("end-of-document", claims, tokenizer)
        if eod.id is None:
            eod = TokenChoice(fault=f"{eod.fault}. Name it with --eod-token TEXT or --eod-id N")
    claims = tokenizer.own_claims.get("bos", []) + side.claims("bos")
    claims = claims or tokenizer.default_claims.get("bos", [])
    bos = choose("beginning-of-text", claims, tokenizer)
    prefix, suffix = _frame(tokenizer, side, bos)
    # What the library itself puts in front of a text outranks what the files name.
    if len(prefix) == 1:
        bos = TokenChoice(id=prefix[0])
    tokenizer.frame = prefix, suffix
    tokenizer.eod_id, tokenizer.eod_fault = eod.id, eod.fault
    tokenizer.bos_id, tokenizer.bos_fault = bos.id, bos.fault
    size = side.model_vocab_size()
    if size is not None and size < tokenizer.vocab_size:
        tokenizer.notices.append(
            f"{MODEL_CONFIG} gives the model {size} ids, the tokenizer's go up to "
            f"{tokenizer.vocab_size - 1}: the model has no row for the last of them"
        )


def choose(role: str, claims: Sequence[TokenClaim], vocabulary: Vocabulary) -> TokenChoice:
    """The single id that all claims allow."""
    if not claims:
        names = f"{CONFIG}, {MAP}, {MODEL_CONFIG} nor {GENERATION}"
        return TokenChoice(
            fault=f"{vocabulary.path} has no {role} token: neither it nor {names} names it"
        )
    allowed = []
    for claim in claims:
        ids = claim.ids
        if claim.text is not None:
            named = vocabulary.token_id(claim.text)
            if named is None:
                others = [str(other) for other in claims if other is not claim]
                also = f"; {others[0]}" if others else ""
                return TokenChoice(
                    fault=f"{claim} for the {role} token, which {vocabulary.path} lacks{also}"
                )
            ids = (named,)
        # A list of ids, as generation_config.json may have it, allows each of them that exists.
        missing = [number for number in ids if vocabulary.token_of(number) is None]
        if len(missing) == len(ids):
            return TokenChoice(
                fault=f"{claim} for the {role} token, and {vocabulary.path} has no such id"
            )
        allowed.append((claim, {number for number in ids if number not in missing}))
    # The claims agree where exactly one id is allowed by all of them.
    common = set.intersection(*(ids for _, ids in allowed))
    if len(common) == 1:
        return TokenChoice(id=common.pop())
    if common:
        return TokenChoice(
            fault=f"{claims[0]} for the {role} token: several, and no file picks one"
        )
    first, first_ids = allowed[0]
    other, other_ids = next(
        ((claim, ids) for claim, ids in allowed[1:] if not ids & first_ids), allowed[-1]
    )
    return TokenChoice(
        fault=f"the files disagree on the {role} token: {first} ({_list(first_ids)}), "
        f"{other} ({_list(other_ids)})"
    )


def _named_by_user(tokenizer: Tokenizer, token: str | None, number: int | None) -> int:
    if token is not None:
        named = tokenizer.token_id(token)
        if named is None:
            raise TokenizerError(
                f"--eod-token {token!r}: {tokenizer.path} has no such token; give the text of a "
                "single token, or its id with --eod-id"
            )
        return named
    if number is None or tokenizer.token_of(number) is None:
        raise TokenizerError(
            f"--eod-id {number}: {tokenizer.path} has no token with this id; the highest is "
            f"{tokenizer.vocab_size - 1}"
        )
    return number


def _frame(
    tokenizer: Tokenizer, side: SideFiles, bos: TokenChoice
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids in front of and behind each text when its own library is called as usual."""
    prefix, suffix = tokenizer.own_frame()
    wanted = side.setting("add_bos_token")
    kind = str(side.setting("tokenizer_class") or "").removesuffix("Fast")
    # A tokenizer.json states its frame itself. For a model file transformers' class decides.
    if wanted is None and not tokenizer.has_own_frame:
        wanted = kind in _ADD_BOS_BY_DEFAULT
    if wanted is False:
        prefix = ()
    elif wanted and not prefix and bos.id is not None:
        prefix = (bos.id,)
    return prefix, suffix


def explain_frame(tokenizer: Tokenizer, *, add_bos: bool) -> str | None:
    """A notice on the tokens that the tokenizer's library puts around a text; None without any."""
    prefix, suffix = tokenizer.frame
    parts = []
    if prefix and not add_bos:
        parts.append(f"{_tokens(tokenizer, prefix)} in front of")
    if suffix:
        parts.append(f"{_tokens(tokenizer, suffix)} behind")
    if not parts:
        return None
    flags = ["--add-bos writes the first"] if prefix and not add_bos else []
    flags += ["--append-eod ends documents"] if suffix else []
    return (
        f"{tokenizer.path} asks for {' and '.join(parts)} each text, which is not written: "
        f"{', '.join(flags)}"
    )


def _tokens(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    return " ".join(f"{tokenizer.token_of(number)} ({number})" for number in ids)


def _list(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)))
