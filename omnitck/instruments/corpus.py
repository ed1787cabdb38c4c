"""Hostile names and values: what real backends fold, trim, parse or refuse, each with the name of its trap."""

__all__ = [
    "AFTER_A_NAME",
    "ILLEGAL_NAMES",
    "ILLEGAL_TENANTS",
    "LARGE_TEXTS",
    "NAMES",
    "NAMES_AT_THE_START",
    "ODD_TENANTS",
    "SEPARATORS",
    "TEXTS",
    "TWIN_TENANTS",
]

NAMES: dict[str, str] = {
    # Separators of composed names.
    "colon": "a:b",
    "double colon": "a::b",
    "pipe": "a|b",
    "double pipe": "a||b",
    "hash": "a#b",
    "at": "a@b",
    "tab": "a\tb",
    "unit separator": "a\x1fb",
    # Paths.
    "slash": "a/b",
    "double slash": "a//b",
    "leading slash": "/a",
    "trailing slash": "a/",
    "dot": "a.b",
    "trailing dot": "a.",
    "parent": "a/../b",
    "only dots": "../..",
    "backslash": "a\\b",
    # Patterns.
    "star": "a*b",
    "question mark": "a?b",
    "character class": "a[b]",
    "percent": "a%b",
    "underscore": "a_b",
    "greater": "a>b",
    "braces": "a{b}",
    "caret": "a^b",
    # Escapes and encodings.
    "percent 2F": "a%2Fb",
    "percent 2f": "a%2fb",
    "percent 00": "a%00b",
    "plus": "a+b",
    "space": "a b",
    "percent 20": "a%20b",
    "unicode escape": "a\\u0062",
    "equals": "a=b",
    "ampersand": "a&b",
    # Quotes and SQL.
    "quote": "a'b",
    "double quote": 'a"b',
    "backtick": "a`b",
    "comment": "a'--",
    "semicolon": "a;b",
    "dollar": "a$b",
    # White space and control characters.
    "trailing space": "a ",
    "trailing newline": "a\n",
    "carriage return": "a\r\nb",
    "control 1": "a\x01b",
    "delete": "a\x7fb",
    # Case and normal forms.
    "lower": "abc",
    "upper": "ABC",
    "sharp s": "stra\u00dfe",
    "double s": "strasse",
    "dotless i": "\u0131",
    "dotted I": "\u0130",
    "plain i": "i",
    "precomposed": "caf\u00e9",
    "combining": "cafe\u0301",
    "full width": "\uff41",
    "ligature": "\ufb01",
    # Beyond ASCII.
    "byte order mark": "\ufeffa",
    "right to left": "a\u200fb",
    "zero width joiner": "\U0001f469\u200d\U0001f4bb",
    "emoji": "\U0001f511",
    "astral": "\U00010000",
    "last of the plane": "\uffff",
    "last code point": "\U0010ffff",
    # Numbers and words.
    "one": "1",
    "zero one": "01",
    "one point zero": "1.0",
    "null": "null",
    "None": "None",
    "true": "true",
    "con": "CON",
    "double underscore": "__proto__",
}
"""Legal names: each names a cell of its own and comes back exactly."""

NAMES_AT_THE_START = frozenset({"leading slash", "only dots", "byte order mark"})
"""Those whose trap is at the beginning: what makes them unique goes behind them."""

AFTER_A_NAME: dict[str, str] = {
    "a letter": "x",
    "colon": ":1",
    "slash": "/1",
    "dot": ".1",
    "space": " ",
    "percent": "%",
    "star": "*",
}
"""What follows a name in the names of its neighbours, which an operation on it must leave alone."""

ILLEGAL_NAMES: dict[str, object] = {
    "empty": "",
    "with U+0000": "a\x00b",
    "a lone surrogate": "a\ud800",
    "None": None,
    "bytes": b"a",
    "a number": 1,
    "a tuple": ("a",),
}
"""Refused with `InvalidArgumentError` by every operation."""

TEXTS: dict[str, str] = {
    "a word": "value",
    "zero": "0",
    "a number": "12.50",
    "a big number": "1" * 40,
    "minus zero": "-0",
    "infinity": "inf",
    "null": "null",
    "None": "None",
    "true": "true",
    "JSON text": '"x"',
    "JSON list": "[]",
    "JSON object": '{"a": 1}',
    "base64": "dmFsdWU=",
    "a pickle's head": "\x80\x04\x95",
    "U+0000": "a\x00b",
    "every ASCII character": "".join(map(chr, range(128))),
    "every Latin-1 character": "".join(map(chr, range(256))),
    "line ends": "a\r\nb\nc\rd",
    "white space around": "  a \t\n",
    "an escape": "\\u0041\\n%41",
    "a quote": 'O\'Brien "x" `y`',
    "normal forms": "caf\u00e9 cafe\u0301",
    "byte order mark": "\ufeffa",
    "beyond the basic plane": "\U0001f511\U00010000\U0010ffff",
    "noncharacters": "\ufffe\uffff",
    "a replacement character": "\ufffd",
}
"""Values that something between an application and its backend likes to interpret."""

LARGE_TEXTS: dict[str, str] = {
    "many line ends": "a\r\nb\nc\rd" * 8192,
    "the end of a reply, again and again": "END\r\n" * 20_000,
}
"""Values that are handled in another way once they are large: in a file, or in several pieces of a reply."""

SEPARATORS: tuple[str, ...] = (
    ":", "/", ".", "-", "_", "#", "@", "!", "|", "||", "::", "//", "%3A", "%2F", "\x1f",
)  # fmt: skip
"""What providers put between a tenant and a name."""

ILLEGAL_TENANTS: dict[str, object] = {
    "empty": "",
    "a space": " ",
    "white space": "\t\n",
    "with U+0000": "a\x00b",
    "a lone surrogate": "a\ud800",
    "a number": 0,
    "bytes": b"a",
    "False": False,
    "a list": [],
}
"""Ids that must never mean "no tenant"."""

ODD_TENANTS: tuple[str, ...] = ("default", "public", "None", "null", "*", "..", ".", "%", "a' --", "0", "__proto__", "$1", "{}")
"""Ids that a backend or a language gives a meaning."""

TWIN_TENANTS: dict[str, tuple[str, str]] = {
    "case": ("Acme", "acme"),
    "normal forms": ("caf\u00e9", "cafe\u0301"),
    "a trailing space": ("acme", "acme "),
    "a trailing dot": ("acme", "acme."),
    "a leading zero": ("1", "01"),
    "a hyphen for an underscore": ("ac-me", "ac_me"),
    "a dropped mark": ("ac!me", "acme"),
    "sharp s": ("stra\u00dfe", "strasse"),
    "full width": ("\uff41cme", "acme"),
    "a prefix": ("acme", "acme2"),
    "a path": ("acme", "acme/x"),
}
"""Pairs that a schema name, a bucket name or a slug makes one."""
