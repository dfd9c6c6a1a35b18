"""Results of pipelines that make one shape."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def shape_answers(results: Iterable[Any]) -> list[Any]:
    """Return one {shape, corners, triangles} per result: a PLY file as base64, and its counts."""
    return [as_ply(result.images[0]) for result in results]


def as_ply(mesh: Any) -> dict[str, Any]:
    """Encode a shape as a PLY file, with a colour per corner."""
    import tempfile

    from diffusers.utils import export_to_ply

    with tempfile.TemporaryDirectory() as folder:
        content = Path(export_to_ply(mesh, f"{folder}/shape.ply")).read_bytes()
    return {
        "shape": base64.b64encode(content).decode(),
        "corners": len(mesh.verts),
        "triangles": len(mesh.faces),
    }
