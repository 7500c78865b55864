"""The invariance set: rows of settings such that each pair of values that may meet does meet.

Factors and their values are below, with what may not go together. The rows are chosen greedily from
all legal ones, the row with most new pairs first, so the first rows are worth most. Rows with
recomputation or a background save repeat a row without and must equal it to the bit.
"""

import itertools
from dataclasses import dataclass

FACTORS: dict[str, tuple[object, ...]] = {
    "tp": (1, 2),
    "etp": ("as tp", "other"),
    "pp": (1, 2),
    "stages": ("even", "virtual", "uneven"),
    "ep": (1, 2),
    "dp": ("one", "several"),
    "distopt": (False, True),
    "overlap": (False, True),
    "mbs": (1, 2),
    "starving": (False, True),
    "drop": (False, True),
}
"""starving: experts without tokens. drop: token dropping. dp: of the dense layers."""
MOST_PROCESSES = 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: what it is compared with (`family`), and its layout's name."""

    family: str
    layout: str
    num_processes: int
    values: tuple[object, ...]

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.family}:{self.layout}"

    @property
    def pairs(self) -> set[tuple[int, object, int, object]]:
        """Which pairs of values meet in it."""
        numbered = list(enumerate(self.values))
        return {(i, a, j, b) for (i, a), (j, b) in itertools.combinations(numbered, 2)}


def legal_cases() -> list[Case]:
    """All rows on at most MOST_PROCESSES."""
    cases = []
    for values in itertools.product(*FACTORS.values()):
        case = _case(dict(zip(FACTORS, values, strict=True)))
        if case is not None:
            cases.append(case)
    return cases


def _case(row: dict[str, object]) -> Case | None:
    tp, pp, ep = int(str(row["tp"])), int(str(row["pp"])), int(str(row["ep"]))
    etp = tp if row["etp"] == "as tp" else 3 - tp
    if row["stages"] != "even" and pp == 1:
        return None
    # Dropping depends on the micro batch, and on TP.
    if row["drop"] and (row["tp"] != 1 or row["mbs"] != 1):
        return None
    sizes = (1,) if row["dp"] == "one" else (2, 4)
    fitting = [d for d in sizes if tp * pp * d % (etp * ep * pp) == 0]
    if not fitting or tp * pp * fitting[0] > MOST_PROCESSES:
        return None
    words = [f"tp{tp}", f"etp{etp}", f"pp{pp}", f"ep{ep}", f"dp{fitting[0]}"]
    words += [{"virtual": "vpp2", "uneven": "uneven"}.get(str(row["stages"]), "")]
    words += [name for name in ("distopt", "overlap") if row[name]]
    words += [f"mbs{row['mbs']}"] if row["mbs"] != 1 else []
    family = [name for name in ("starving", "drop") if row[name]]
    # Rows of other micro-batch sizes have no auxiliary loss.
    family += ["unbalanced"] if row["mbs"] != 1 else []
    return Case(
        family="-".join(family) or "plain",
        layout="-".join(word for word in words if word and word not in ("tp1", "pp1", "ep1")),
        num_processes=tp * pp * fitting[0],
        values=tuple(row.values()),
    )


def covering_set() -> list[Case]:
    """Rows in which every legal pair meets at each micro-batch size; most new pairs first."""
    rows = legal_cases()
    size = list(FACTORS).index("mbs")
    new = {row.id: {(row.values[size], *pair) for pair in row.pairs} for row in rows}
    wanted = set().union(*new.values())
    chosen = []
    while wanted:
        best = max(rows, key=lambda row: (len(new[row.id] & wanted), -row.num_processes, row.id))
        chosen.append(best)
        wanted -= new[best.id]
    return chosen


def rows_with_every_value(rows: list[Case]) -> list[Case]:
    """As few of the rows as hold each value of each factor."""
    values = {row.id: set(enumerate(row.values)) for row in rows}
    wanted = set().union(*values.values())
    chosen = []
    while wanted:
        best = max(rows, key=lambda row: (len(values[row.id] & wanted), -row.num_processes, row.id))
        chosen.append(best)
        wanted -= values[best.id]
    return chosen
