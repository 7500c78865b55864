"""Combinations of versions: what the rows hold, and how an installation is compared with them."""

import re

from ml_models.megatron_core.lines import is_supported
from ml_models.platforms import ascend_adaptors
from ml_models.platforms.versions import combinations, differences, nearest


def test_every_row_is_whole_and_has_a_source() -> None:
    assert len(combinations("npu")) >= 5 and len(combinations("cuda")) >= 2
    for row in combinations():
        assert row.source["title"] and row.source["url"]
        assert is_supported(row.megatron_core.rpartition(".")[0])
        # The tag of a source tree is that of the release.
        assert row.core_from in ("pip", f"core_v{row.megatron_core}")
        if "npu" in row.platforms:
            assert row.torch_npu and row.cann
            # torch_npu's release is torch's, with a number of its own behind it.
            assert re.fullmatch(rf"{re.escape(row.torch)}(\.post\d+)?", row.torch_npu)


def test_the_adaptors_of_the_rows_are_those_of_the_code() -> None:
    branches = {
        f"{adaptor.name} {branch}": line
        for adaptor in (ascend_adaptors.MINDSPEED, ascend_adaptors.MEGATRON_ADAPTOR)
        for line, branch in adaptor.branches.items()
    }
    rows = {row.name: row for row in combinations("npu") if row.adaptor}
    for row in rows.values():
        adaptor = str(row.adaptor).partition(",")[0]
        if row.name != "npu-mindspeed-0-12-cann-9-0":  # an older branch for the same line
            assert row.megatron_core.startswith(branches[adaptor] + ".")
    lines = {row.megatron_core.rpartition(".")[0] for row in rows.values()}
    assert lines == {line for line in branches.values() if is_supported(line)}


def test_an_installation_is_compared_with_the_row_of_its_line() -> None:
    installed = {"python": "3.10", "torch": "2.13.0", "megatron_core": "0.12.1"}
    row = nearest("npu", installed)
    assert row is not None and row.name.startswith("npu-mindspeed-0-12")
    assert differences(row, installed) == {"torch": "2.7.1"}
    assert nearest("toy", installed) is None
    exact = {"python": "3.11", "torch": "2.13.0", "megatron_core": "0.16.1"}
    row = nearest("cuda", exact)
    assert row is not None and differences(row, exact) == {}
