"""Strings that tell tokenizers apart."""

from hypothesis import strategies as st

STRINGS = [
    "",
    " ",
    "Hello, world!",
    "  leading and   inner  spaces ",
    "line\nline\r\n\n\n  indented\ttab",
    "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2]}\n",
    "12345 3.14159 2026-11-22 0x1F ½ ٣",
    "it's we'll I'D 'S don't",
    "naïve café — “quotes” … €",
    "日本語のテキスト 한국어 עברית عربى हिन्दी",
    "🚀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u00a0",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>x <|im_start|",
    "a" * 300 + "!" * 50,
    "\x00\x01\x7f\u2028",
    'get_weather(city="Zürich", days=3)\n\n\nSELECT * FROM t;',
]
MIXED = st.lists(
    st.one_of(
        st.sampled_from([*STRINGS[1:], "\n\n", "<|im_end|>", "<|im_start|>assistant\n"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    ),
    max_size=5,
).map("".join)
