"""What a rank sends in a collective, by the ring algorithms that NCCL counts with."""


def sent_bytes(kind: str, message_bytes: float, group_size: int) -> float:
    """Bytes that leave this rank for a message of `message_bytes` over the whole group.

    Source: NCCL's performance page (nccl-tests, doc/PERFORMANCE.md).
    """
    if kind in ("send", "broadcast", "reduce"):
        return float(message_bytes)
    if kind == "receive":
        return 0.0
    share = (group_size - 1) / group_size
    return message_bytes * share * (2 if kind == "all-reduce" else 1)
