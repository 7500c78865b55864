"""Archives of torch.save, checked and interpreted before any library opens them."""

import io
import zipfile
from typing import BinaryIO

from ml_models.errors import WeightError
from ml_models.files.allow_lists import TORCH_OBJECTS
from ml_models.files.pickles import MAX_PICKLE_BYTES, AllowList, interpret

# How torch.save began a file before 1.6: the pickle of the number 0x1950a86a20f9469cfc6c.
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_END_RECORD_BYTES = 22
"""Size of a zip file's last record without a comment."""


def inspect_torch_zip(
    file: BinaryIO, what: str, allowed: AllowList = TORCH_OBJECTS
) -> tuple[object, zipfile.ZipFile]:
    """The inert object of a torch.save archive and the archive; refuses what torch might run.

    torch looks an entry up with another zip reader than Python's, so whatever two readers could
    see differently (two entries of one name, leading or trailing bytes) is refused.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_RECORD_BYTES))
    end = file.read(_END_RECORD_BYTES)
    file.seek(0)
    start = file.read(len(OLD_FORMAT))
    if start == OLD_FORMAT:
        raise WeightError(
            f"{what}: in the format that torch.save wrote before 1.6, which is not read; load it "
            "there and save it again."
        )
    if start[:4] != b"PK\x03\x04" or end[:4] != b"PK\x05\x06":
        raise WeightError(f"{what}: not in torch's zip format, or truncated; refused.")
    try:
        archive = zipfile.ZipFile(file)
        entries = archive.infolist()
        # Of names that differ in case alone, another reader may take the other entry.
        names = [entry.filename for entry in entries]
        folders = {name.split("/", 1)[0] for name in names}
        if len({name.lower() for name in names}) != len(names) or len(folders) != 1:
            raise WeightError(f"{what}: entries that two zip readers see differently; refused.")
        # Python's reader accepts bytes in front of the archive, torch's does not look for them.
        if min(entry.header_offset for entry in entries) != 0:
            raise WeightError(f"{what}: bytes before the first zip entry; refused.")
        top = folders.pop()
        pickles = [name for name in names if name.lower().endswith(".pkl")]
        # An archive with a folder `code` is TorchScript, which torch.load would run.
        scripts = [name for name in names if name.lower().startswith(f"{top}/code".lower())]
        if pickles != [f"{top}/data.pkl"] or scripts:
            raise WeightError(f"{what}: not a plain torch.save archive; refused.")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE_BYTES:
            raise WeightError(f"{what}: its pickle exceeds {MAX_PICKLE_BYTES} bytes; refused.")
        stream = archive.read(pickles[0])
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise WeightError(f"{what}: damaged zip archive ({error}).") from error
    return interpret(io.BytesIO(stream), what, allowed), archive
