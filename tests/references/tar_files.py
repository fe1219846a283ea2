"""Tar archives in memory: a member with any fields, and the archive of some files."""

import io
import tarfile
from collections.abc import Iterable


def info(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 4, **fields: object
) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size if kind == tarfile.REGTYPE else 0
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def tar_of(files: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files:
            member = info(name, size=len(content), mode=0o4777)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
