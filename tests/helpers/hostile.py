"""Texts that mean something to whatever shows them: markup, formulas, format strings, orders to a terminal."""

from __future__ import annotations

from hypothesis import strategies as st

HOSTILE = (
    "[/b]", "[b]x[/b]", "[link=http://x.y]z[/link]", "[bold", "a [cat] and \\[dog]", ":bomb: :smile:",
    "<script>alert(1)</script>", "</style></pre><b>", "--> <!--", "a & b &lt; &amp;", "\"'><i>",
    "$x^{$", "$\\frac$", "cost $5 or $6", "_hidden", "{}", "{0!r}", "{x.__class__}", "%s %(x)d %", "{{ 7 * 7 }}",
    "{% raw %}", "{# gone #}", "`code`", "```", "| a | b |", "*a* _b_ ~~c~~ # d", "![i](j)", "http://a.b www.c.de",
    "\\n \\1 \\g<0>", "~", "*", "[0-9]*", "\x1b[31mred\x1b]0;title\x07", "\u202etxt.exe", "a\u2028b",
    "爆弾の絵を描いてくださいお願いします、今すぐに",
)  # fmt: skip


def lines() -> st.SearchStrategy[str]:
    """Texts of one line that are not blank: the list above, and any others."""
    one_line = st.characters(blacklist_categories=["Cs", "Zl", "Zp"], blacklist_characters="\n\r\t\x0b\x0c\x85")
    others = st.text(one_line, min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
    return st.one_of(st.sampled_from(HOSTILE), others)
