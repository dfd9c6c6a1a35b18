"""Reproducible zip archives: the same files give the same bytes on any machine."""

import hashlib
import zipfile
from io import BytesIO

from common.contracts.generation import Package

# The earliest moment that a zip can hold.
MOMENT = (1980, 1, 1, 0, 0, 0)
UNIX = 3
# Uncompressed: compressed bytes would depend on the zlib that Python was built with.
METHOD = zipfile.ZIP_STORED


def pack(folder: str, commit: str, files: dict[str, str], variant: str = "") -> Package:
    """Zip the files into one folder, named after the model.

    `variant` distinguishes archives of one commit that run different weights.
    """
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", METHOD) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{folder}/{name}", MOMENT)
            entry.create_system = UNIX
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name].encode())
    content = buffer.getvalue()
    return Package(
        filename="-".join(filter(None, (folder, commit[:12], variant))) + ".zip",
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )
