import pytest
from inert_pages import hash_source
from jinja2 import UndefinedError

from clipdemo.output import html


def test_a_missing_value_is_an_error_and_not_an_empty_place():
    with pytest.raises(UndefinedError, match="title"):
        html.render("compare.html")


def test_only_inline_scripts_are_hashed_and_each_is():
    markup = '<p>a</p><script>one()</script><script type="text/javascript">\ntwo("<b>")\n</script>'
    expected = [hash_source("one()"), hash_source('\ntwo("<b>")\n')]
    assert html.inline_script_hashes(markup).split() == expected


def test_a_data_uri_names_its_type():
    assert html.data_uri(b"\0\1\2") == "data:image/jpeg;base64,AAEC"
    assert html.data_uri(b"", "png") == "data:image/png;base64,"


@pytest.mark.parametrize(
    ("cell", "text"), [(None, "–"), (1234.567, "1,234.57"), (3, "3"), ("<b>", "<b>"), (0.0, "0.00")]
)
def test_table_cells_are_rounded_where_they_are_floats(cell, text):
    filters = html._environment.filters
    assert filters["figure"](cell, 2) == text
