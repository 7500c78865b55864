"""Whether a folder can be made and written, and how much room it has, without touching it."""

import os
import shutil
from pathlib import Path


def fault_of_folder(folder: Path) -> str | None:
    """Why `folder` could not be made or written by this user, as the end of a sentence."""
    try:
        existing = nearest_folder(folder)
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    if not existing.is_dir():
        return f"{existing} is a file"
    # os.access asks for the real user, and sees a file system that is mounted to be read alone.
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written by this user, or its file system is read-only"
    if shutil.disk_usage(existing).total == 0:
        # Such as /proc, which lets root pass the question above.
        return f"the file system of {existing} keeps no files"
    return None


def fault_of_file(path: Path) -> str | None:
    """Why a file could not be written, as the end of a sentence."""
    if path.is_dir():
        return f"{path} is a folder"
    if path.exists() and not os.access(path, os.W_OK):
        return f"{path} cannot be written by this user"
    return fault_of_folder(path.parent)


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write there. OSError."""
    return shutil.disk_usage(nearest_folder(folder)).free


def nearest_folder(folder: Path) -> Path:
    """`folder` itself, or the nearest path above it that exists. OSError."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
