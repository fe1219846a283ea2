"""How the members of a zip are compressed, and which of the methods are read."""

from pathlib import Path

from utils.errors import UserError

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
READ_METHODS = (STORED, DEFLATED, BZIP2, LZMA)  # what Python's standard library can decompress
ENCRYPTED = -1  # stands for any method behind a password

# APPNOTE.TXT 6.3.10, section 4.4.5, without those above. Windows' Explorer and 7-Zip write
# Deflate64, WinZip any of the later ones.
_NAMES = {
    **{1: "Shrink", 2: "Reduce", 3: "Reduce", 4: "Reduce", 5: "Reduce", 6: "Implode"},
    **{9: "Deflate64", 10: "PKWARE DCL Implode", 93: "Zstandard", 95: "XZ", 98: "PPMd"},
    **{96: "JPEG", 97: "WavPack", 99: "AES encryption"},
}


def unread_method(path: Path, method: int) -> UserError:
    """Return the error for a member that is compressed with a method that is not read."""
    if method == ENCRYPTED:
        return UserError(f"{path} holds encrypted files: pack it again without a password")
    name = _NAMES.get(method, f"method {method}")
    return UserError(
        f"{path} holds files that are compressed with {name}, which is not supported: pack it "
        "again with Deflate, the usual method of zip"
    )
