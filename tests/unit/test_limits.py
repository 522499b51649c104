import pytest

from clipdemo.errors import SettingError
from clipdemo.limits import Limits


def test_the_defaults_are_those_of_the_readme():
    limits = Limits.from_environment({})
    assert (limits.images, limits.captions, limits.file_bytes) == (200, 50, 20_000_000)
    assert limits.typed == "none"
    assert (limits.urls, limits.url_seconds, limits.urls_allowed) == (50, 10, True)
    assert limits.memory_bytes is None


def test_every_limit_can_be_set():
    limits = Limits.from_environment(
        {
            "CLIPDEMO_MAX_IMAGES": "7",
            "CLIPDEMO_MAX_CAPTIONS": "8",
            "CLIPDEMO_MAX_ROWS": "9",
            "CLIPDEMO_MAX_FILE_MB": "1.5",
            "CLIPDEMO_MAX_URLS": "9",
            "CLIPDEMO_URL_SECONDS": "2.5",
            "CLIPDEMO_ALLOW_URLS": "0",
            "CLIPDEMO_CACHE_MB": "30",
            "CLIPDEMO_MEMORY_MB": "900",
            "CLIPDEMO_TYPED_CHECKPOINTS": "Folders",
        }
    )
    assert limits == Limits(7, 8, 9, 1_500_000, 9, 2.5, False, 30_000_000, 900_000_000, typed="folders")


@pytest.mark.parametrize("value", ["zero", "-1", "0", "0.5", "nan", "inf", "1e12"])
def test_an_unusable_number_says_which_variable(value):
    with pytest.raises(SettingError, match="CLIPDEMO_MAX_IMAGES"):
        Limits.from_environment({"CLIPDEMO_MAX_IMAGES": value})


def test_an_unusable_switch_says_which_variable():
    with pytest.raises(SettingError, match="CLIPDEMO_ALLOW_URLS"):
        Limits.from_environment({"CLIPDEMO_ALLOW_URLS": "maybe"})


def test_an_unknown_word_lists_the_allowed_ones():
    with pytest.raises(SettingError, match=r"CLIPDEMO_TYPED_CHECKPOINTS.*none, hub, folders"):
        Limits.from_environment({"CLIPDEMO_TYPED_CHECKPOINTS": "all"})
