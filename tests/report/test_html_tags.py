"""Everything is escaped unless it is HTML already."""

from __future__ import annotations

from planner.report.html.tags import Html, data_script, script, tag


def test_escapes_text_and_attributes():
    made = tag("p", "a < b & c", title='say "hi"')
    assert made == '<p title="say &quot;hi&quot;">a &lt; b &amp; c</p>'


def test_keeps_what_is_html_already():
    assert tag("p", tag("b", "x"), Html("<i>y</i>")) == "<p><b>x</b><i>y</i></p>"


def test_leaves_out_what_is_none_or_false():
    assert tag("td", None, class_=None, hidden=False) == "<td></td>"


def test_names_attributes_as_html_does():
    assert tag("div", class_="a", data_stage="0-1") == '<div class="a" data-stage="0-1"></div>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_lists_are_joined_at_any_depth():
    assert tag("p", ["a", ["b", 3]]) == "<p>ab3</p>"


def test_a_script_cannot_be_ended_by_its_own_text():
    assert script('x = "</script>";') == '<script>x = "<\\/script>";</script>'
    assert "</script><b>" not in data_script("a", '"</script><b>"')
