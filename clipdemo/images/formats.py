"""Recognises the format of a file from its first bytes, and says what an unsupported file is instead."""

from __future__ import annotations

from typing import Final

from PIL.TiffImagePlugin import PREFIXES as TIFF_PREFIXES

from clipdemo.errors import NotAnImageError

# Names that the image files of a folder end in. A file given by its name may be called anything.
SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
    }
)

_SIGNATURES: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys(TIFF_PREFIXES, "TIFF"),
}
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_OTHER_FILES: Final = {
    b"%PDF": "the file is a PDF, not an image; save its page as PNG",
    b"%!PS": "the file is an EPS drawing; export it as PNG",
    b"\xc5\xd0\xd3\xc6": "the file is an EPS drawing; export it as PNG",
    b"PK\x03\x04": "the file is a zip archive or an office document; unpack it",
    b"Rar!": "the file is an archive; unpack it or use a zip",
    b"7z\xbc\xaf": "the file is an archive; unpack it or use a zip",
    b"\x1f\x8b": "the file is an archive; unpack it or use a zip",
    b"8BPS": "the file is a Photoshop document; export it as PNG",
    b"\xff\x0a": "the file is a JPEG XL image; save it as JPEG or PNG",
    b"\0\0\0\x0cJXL ": "the file is a JPEG XL image; save it as JPEG or PNG",
    b"\0\0\0\x0cjP  ": "the file is a JPEG 2000 image; save it as JPEG or PNG",
    b"\0\0\1\0": "the file is an icon; save it as PNG",
}
_READABLE = "use JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"


def detect_format(data: bytes) -> str:
    """The image format of a file: "JPEG", "PNG", "WebP", "AVIF", "HEIC", "GIF", "BMP" or "TIFF".

    Raises:
        NotAnImageError: an empty file or another format; the message names it where it is known.
    """
    if not data:
        raise NotAnImageError("the file is empty; save or download it again")
    for prefix, name in _SIGNATURES.items():
        if data.startswith(prefix):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0":  # header size; a text may start with BM too
        return "BMP"
    if data[4:8] == b"ftyp":
        return _detect_ftyp(data)
    raise NotAnImageError(_describe(data))


def _detect_ftyp(data: bytes) -> str:
    """AVIF and HEIC share their box format with video; the brands distinguish them."""
    end = min(max(int.from_bytes(data[:4], "big"), 12), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIC"
    raise NotAnImageError("the file is a video, not an image; save one of its frames as PNG")


def _describe(data: bytes) -> str:
    """What an unsupported file is, and what to do."""
    for prefix, sentence in _OTHER_FILES.items():
        if data.startswith(prefix):
            return sentence
    head = data[:2048].lower()
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<!doctype html", b"<html", b"<head")):
        return "the file is an HTML page, not an image; open the image itself and save that"
    if b"<svg" in head:
        return "SVG is a drawing; export it as PNG"
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return f"the file is text, not an image; {_READABLE}"
    return f"the file is not an image in a supported format; {_READABLE}"
