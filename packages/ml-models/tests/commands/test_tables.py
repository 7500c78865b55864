"""Columns line up, whatever the cells are."""

from ml_models.commands.tables import Column, table


def test_columns_have_their_width_and_a_wide_cell_widens_its_column() -> None:
    columns = (Column(6), Column(4, right=True), Column())
    narrow = [("a", "1", "x"), ("bc", "22", "")]
    assert list(table(columns, narrow)) == ["a          1  x", "bc        22"]
    wide = [*narrow, ("longer name", "123456", "y")]
    assert list(table(columns, wide, indent=" ")) == [
        " a                 1  x",
        " bc               22",
        " longer name  123456  y",
    ]


def test_a_row_may_be_shorter_than_the_table() -> None:
    assert list(table((Column(3), Column(3)), [("a",), ("b", "c")])) == ["a", "b    c"]
