"""What the listing of an input gives: candidates, and the files that it leaves out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from ml_data.documents.sources.names import TABLE_LOGS
from ml_data.documents.sources.source import SourceFile

HIDDEN = "names that begin with . or _ are hidden or temporary"
VISITED = "links to folders that are read already"
NO_FILE = "neither files nor folders"


@dataclass(frozen=True, kw_only=True)
class LeftOutFile:
    """A file or folder (with a `/` at its end) that is not read, and why.

    `same_as` is the name under which the same file is read.
    """

    name: str
    reason: str
    same_as: str | None = None

    def to_dict(self) -> dict[str, str]:
        """For a manifest and for --json."""
        facts = {"path": self.name, "reason": self.reason}
        return facts if self.same_as is None else {**facts, "same_as": self.same_as}

    def __str__(self) -> str:
        return self.name if self.same_as is None else f"{self.name} (which is {self.same_as})"


@dataclass(frozen=True, kw_only=True)
class InputCandidate:
    """A file that an input names.

    `identity` is equal for two names of the same file. `is_named`: the input is the name of the
    file itself, not a folder or a pattern. `is_link`: the name leads through a link.
    """

    source: SourceFile
    identity: Hashable
    is_named: bool = False
    is_link: bool = False


@dataclass(kw_only=True)
class InputCandidates:
    """The candidates of an input, and what its listing leaves out.

    `listed` holds the names of all files that were seen, selected or not. Some files are recognised
    by the files beside them.
    """

    candidates: list[InputCandidate] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    left_out: list[LeftOutFile] = field(default_factory=list)

    def leave_out_hidden(self, name: str) -> None:
        """Record a hidden file or folder; the log of a table with what it means for the data."""
        table = TABLE_LOGS.get(name.rstrip("/").rpartition("/")[2])
        if table is None:
            self.leave_out(name, HIDDEN)
        else:
            reason = (
                f"the log of a {table} table; files that the table has removed are read as well"
            )
            self.leave_out(name, reason)

    def leave_out(self, name: str, reason: str, same_as: str | None = None) -> None:
        """Record a name that is not read."""
        self.left_out.append(LeftOutFile(name=name, reason=reason, same_as=same_as))
