"""Zip files (.npz, .pt) that would unpack to far more than they hold, a megabyte to a gigabyte."""

import zipfile
from pathlib import Path

from probe_sae.errors import ProbeSaeError

_RATIO, _SMALL = 100, 1 << 20
"""What a part may unpack to: so many times its bytes in the file, and so many more."""


def check_archive(path: Path, error: type[ProbeSaeError]) -> None:
    """Check from its table what a zip file unpacks to, before anything of it is unpacked.

    A file that does not begin as one passes.

    Args:
        path: a file.
        error: what its reader raises.

    Raises:
        error: a part unpacks to far more than it holds, parts share bytes, or the table is damaged.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # by which torch tells, too
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as problem:
        raise error(f"{path} is a damaged archive: {problem}") from problem
    for part in parts:
        if part.file_size > _RATIO * part.compress_size + _SMALL:
            raise error(
                f"{path}: {part.filename} unpacks to far too much, {part.file_size:,} bytes from "
                f"{part.compress_size:,}. Save it anew, uncompressed, where you trust it."
            )
    if sum(part.compress_size for part in parts) > path.stat().st_size:
        raise error(f"{path}: its parts hold more bytes than the file, which unpacks to too much.")
