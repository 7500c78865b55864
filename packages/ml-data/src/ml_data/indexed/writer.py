"""Write a .bin/.idx pair from Python. No file is replaced, and no half of a pair is ever left.

    with IndexedDatasetWriter("run/mine", np.int32) as writer:
        writer.add_document([17, 4, 2], [3])

Everything lies in `P.work/` until the end of the block, where the pair gets its names, the .idx
last. An exception in the block removes what was written.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_data.errors import OutputError
from ml_data.indexed.pair_writer import LONGEST, PairWriter
from ml_data.indexed.prefixes import output_prefix
from ml_data.indexed.publication import Publication
from ml_data.notices import Notice, warn


class IndexedDatasetWriter(PairWriter):
    """Append documents; `finalize` or the end of a `with` block gives the pair its final names."""

    def __init__(
        self,
        prefix: str | Path,
        dtype: np.dtype | type,
        *,
        overwrite: bool = False,
        on_notice: Notice = warn,
    ) -> None:
        """`dtype` is one of numpy's whole-number types that the format knows, such as int32.

        Raises OutputError where a file of that name exists, unless it is an output of this package
        and `overwrite` is given; where another process writes to `prefix`; for another `dtype`.
        """
        prefix = output_prefix(prefix, "prefix")
        work = Path(f"{prefix}.work")
        self._publication = Publication(
            [prefix], work, overwrite=overwrite, has_manifest=False, notice=on_notice
        )
        self._publication.begin()
        self._is_open = True
        try:
            super().__init__(prefix, dtype, work, notice=on_notice)
        except BaseException:
            self._publication.remove_work()
            raise

    def add_document(self, ids: ArrayLike, lengths: ArrayLike) -> None:
        """Append a document of several sequences; `ids` is flat [sum(lengths)].

        Arrays, torch tensors and lists of whole numbers are taken; both empty make an empty
        document. Raises OutputError, and appends nothing, where ids or lengths cannot be right.
        """
        flat, sizes = self._checked(ids, lengths)
        if (sizes == 0).any():
            raise OutputError(
                f"{self.prefix}: a sequence of length 0; an empty document has no sequence: give "
                "[] and []"
            )
        self._add(flat, sizes, np.array([len(sizes)], "<i8"))

    def add_batch(self, ids: ArrayLike, lengths: ArrayLike) -> None:
        """Append a document per entry of `lengths` [documents]; `ids` is flat [sum(lengths)].

        As `add_document`; an entry of 0 is an empty document.
        """
        super().add_batch(*self._checked(ids, lengths))

    def _checked(
        self, ids: ArrayLike, lengths: ArrayLike
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        if not self._is_open:
            raise OutputError(f"{self.prefix}: the writer is finished: open another one")
        flat, sizes = self._whole_numbers("ids", ids), self._whole_numbers("lengths", lengths)
        if len(sizes) and (int(sizes.min()) < 0 or int(sizes.max()) > LONGEST):
            raise OutputError(
                f"{self.prefix}: lengths from {sizes.min()} to {sizes.max()}; a sequence has 0 to "
                f"{LONGEST} tokens"
            )
        if (total := int(sizes.sum(dtype=np.int64))) != len(flat):
            raise OutputError(
                f"{self.prefix}: {len(flat)} ids were given, and lengths whose sum is {total}: "
                "all documents after this would shift"
            )
        return flat, sizes

    def _whole_numbers(self, what: str, values: ArrayLike) -> NDArray[np.integer]:
        """`values` as a flat array of whole numbers."""
        try:
            array = np.asarray(values)
        except (ValueError, TypeError) as error:
            raise OutputError(f"{self.prefix}: {what} are no flat array: {error}") from error
        if array.ndim != 1:
            raise OutputError(
                f"{self.prefix}: {what} have the shape {array.shape}: give a flat array or list"
            )
        if array.size == 0:
            return np.empty(0, np.int64)  # numpy makes an empty list an array of floats
        if array.dtype.kind not in "iu":
            raise OutputError(
                f"{self.prefix}: {what} are of type {array.dtype}: they must be whole numbers"
            )
        return array

    def finalize(self) -> None:
        """Complete the pair and give it its names, the .idx last. A second call does nothing.

        Where a name was taken meanwhile, the complete files stay in `P.work`.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            self.seal()
        except BaseException:
            self.abort()
            raise
        try:
            self._publication.publish()
        except BaseException:
            self._publication.keep_work()
            raise
        self._publication.remove_work()

    def abort(self) -> None:
        """Remove what was written so far; nothing was under a final name."""
        self._is_open = False
        self.close()
        self._publication.remove_work()

    def __enter__(self) -> IndexedDatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_open:
            return
        if kind is None:
            self.finalize()
        else:
            self.abort()
