from pathlib import Path

import pytest

from clipdemo.cli.config import Config, read_config
from clipdemo.errors import SettingError


def config_file(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_all_keys_are_read(tmp_path):
    text = "csv_path: data/in.csv\nimage_path: photos\nuse_cuda: true\npretrained_model: owner/name\n"
    assert read_config(config_file(tmp_path, text)) == Config(
        Path("data/in.csv"), Path("photos"), True, "owner/name"
    )


@pytest.mark.parametrize("text", ["", "image_path: url", "image_path: URL\nuse_cuda:\n"])
def test_url_and_empty_keys_keep_the_default(tmp_path, text):
    assert read_config(config_file(tmp_path, text)) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("csv_pat: in.csv", "unknown setting 'csv_pat'; use csv_path"),
        ("use_cuda: maybe", "true or false"),
        ("csv_path: [a, b]", "must be text"),
        ("- a\n- b", "does not contain settings"),
        ("a: b: c", "not a YAML file"),
        ("!!python/object/apply:os.system [ls]", "not a YAML file"),
        ("\x00", "not a YAML file"),
    ],
)
def test_errors_name_the_problem(tmp_path, text, message):
    with pytest.raises(SettingError, match=message):
        read_config(config_file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingError, match=r"gone\.yaml cannot be read"):
        read_config(tmp_path / "gone.yaml")
