import io
import os
import tracemalloc
import zipfile

import pytest
from pictures import png

from clipdemo.errors import BlockedURLError, FileMissingError, ImageTooLargeError
from clipdemo.images import sources
from clipdemo.images.locate import folder_locator, read_arguments, upload_locator
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.types import Rejected

LIMITS = Limits(file_bytes=1000)


def test_a_path_is_read_from_the_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.jpg").write_bytes(b"bytes")
    locate = folder_locator(tmp_path, LIMITS)
    assert locate("inner/a.jpg").read() == b"bytes"
    assert locate("inner\\a.jpg").read() == b"bytes"
    assert locate("./inner/../inner/a.jpg").read() == b"bytes"


@pytest.mark.parametrize("cell", ["../secret.txt", "/etc/hostname", "inner/../../secret.txt", "link.txt"])
def test_nothing_outside_the_folder_is_read(tmp_path, cell):
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(FileMissingError, match="outside"):
        folder_locator(folder, LIMITS)(cell).read()


def test_a_cell_that_is_not_a_readable_file_says_why(tmp_path):
    locate = folder_locator(tmp_path, LIMITS)
    (tmp_path / "big.jpg").write_bytes(b"0" * 1001)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FileMissingError, match="No such file"):
        locate("missing.jpg").read()
    with pytest.raises(FileMissingError, match="file: addresses are not read"):
        locate((tmp_path / "big.jpg").as_uri()).read()
    with pytest.raises(FileMissingError, match=r"not the path|characters"):
        locate("a\0b").read()
    with pytest.raises(FileMissingError, match="it is not a regular file"):
        locate("pipe.jpg").read()
    with pytest.raises(FileMissingError):
        locate("x" * 5000).read()
    with pytest.raises(ImageTooLargeError, match="1,000"):
        locate("big.jpg").read()


def test_a_private_url_is_blocked(tmp_path):
    with pytest.raises(BlockedURLError):
        folder_locator(tmp_path, LIMITS)("http://127.0.0.1/a.jpg").read()


def test_uploads_are_found_by_name_or_the_end_of_their_path():
    names = [
        "a.jpg",
        "b.jpg",
        "b.jpg",
        "photos.zip/cats/tom.jpg",
        "photos.zip/dogs/tom.jpg",
        "photos.zip/dogs/rex.jpg",
    ]
    locate = upload_locator([sources.from_bytes(name, name.encode(), "upload") for name in names], LIMITS)
    assert locate("a.jpg").read() == b"a.jpg"
    assert locate("rex.jpg").read() == b"photos.zip/dogs/rex.jpg"
    assert locate("cats\\tom.jpg").read() == b"photos.zip/cats/tom.jpg"
    with pytest.raises(FileMissingError, match="2 uploaded files"):
        locate("tom.jpg").read()
    with pytest.raises(FileMissingError, match="2 uploaded files"):
        locate("b.jpg").read()
    with pytest.raises(FileMissingError, match="upload it"):
        locate("/etc/hostname").read()


def test_arguments_name_files_folders_and_zips(tmp_path):
    folder = tmp_path / "photos"
    (folder / ".hidden").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden/c.jpg"):
        (folder / name).write_bytes(png())
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("in.png", png())
    (tmp_path / "z.zip").write_bytes(bundle.getvalue())
    limits = Limits()
    found = list(read_arguments([str(folder), str(tmp_path / "z.zip"), str(tmp_path / "gone.jpg")], limits))
    assert [source.name for source in found[:3]] == ["a.jpg", "b.PNG", "z.zip/in.png"]
    assert all(isinstance(source, Source) for source in found)
    with pytest.raises(FileMissingError):
        found[3].read()


def test_a_folder_without_images_says_so(tmp_path):
    (only,) = read_arguments([str(tmp_path)], LIMITS)
    assert isinstance(only, Rejected)
    assert "no image files" in only.reason


def test_a_member_with_a_very_long_path_costs_little_memory():
    source = sources.from_bytes("a/" * 30_000 + "x.jpg", b"", "zip")
    tracemalloc.start()
    locate = upload_locator([source], LIMITS)
    assert locate("a/x.jpg").read() == b""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
