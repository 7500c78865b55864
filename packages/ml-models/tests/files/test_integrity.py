"""What integrity.json notices: files that are missing, added, of another size or content."""

from pathlib import Path

from ml_models.files.integrity import is_whole, verify_integrity, write_integrity


def test_integrity_names_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    assert not is_whole(tmp_path)
    write_integrity(tmp_path)
    assert is_whole(tmp_path) and verify_integrity(tmp_path, checksums=True) == []
    (tmp_path / "a").write_text("eno")
    assert verify_integrity(tmp_path) == []
    assert "content differs" in verify_integrity(tmp_path, checksums=True)[0]
    (tmp_path / "a").write_text("longer")
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_text("new")
    assert [fault.split(": ")[1] for fault in verify_integrity(tmp_path)] == [
        "6 bytes, 3 were written.",
        "missing.",
        "not part of it.",
    ]
