"""Small pictures, their files in every format, and checks of the decoded pixels."""

import io

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from clipdemo.images.decode import decode_image

FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "HEIF"]
WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left="red", right="blue", size=(80, 40), mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def orientation(number):
    exif = Image.Exif()
    exif[274] = number
    return exif.tobytes()


def close(pixel, expected, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


def corners(item):
    """The pixels near the corners: top left, top right, bottom left, bottom right."""
    x, y = item.image.width - 3, item.image.height - 3
    return [item.image.getpixel(corner) for corner in ((2, 2), (x, 2), (2, y), (x, y))]


def left_right(data):
    top_left, top_right, *_ = corners(decode_image(data, "x"))
    return top_left, top_right


def noise(size, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(colour="red", size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def swapped_profile(name):
    """An ICC profile with red and green swapped."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    head, body = profile[:400], profile[400:]
    head = head.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    return head + body


def seed_files():
    """Small files of every format, with and without EXIF and profile, in many modes."""
    image = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    exif = Image.Exif()
    exif[274] = 6
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))
    files = [encode(image, kind) for kind in ("GIF", "BMP", "HEIF", "MPO")]
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        files += [encode(image, kind), encode(image, kind, exif=exif, icc_profile=icc)]
    for mode in ("1", "P", "LA", "CMYK", "I", "F", "I;16"):
        files.append(encode(image.convert("L").convert(mode), "TIFF"))
    for mode in ("RGBA", "P", "I;16"):
        files.append(encode(image.convert("L" if mode == "I;16" else mode).convert(mode), "PNG"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        files.append(encode(image, "TIFF", compression=compression))
    files.append(encode(image, "JPEG", progressive=True))
    files.append(encode(image, "WEBP", lossless=True))
    return files
