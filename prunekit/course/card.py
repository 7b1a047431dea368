"""What check, hint, solution, quiz and progress answer with: a small card in a notebook, plain text elsewhere."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Literal

SIGNS = {"ok": "✓", "open": "○", "wrong": "✗", "note": "›"}
COLOURS = {"ok": "#0072b2", "open": "#888888", "wrong": "#d55e00", "note": "#888888"}  # told apart by the colour-blind
NO_TEX = "mathjax_ignore tex2jax_ignore"  # a dollar in an error message is a dollar


@dataclass(frozen=True, repr=False)
class Card:
    """state: ok, open (not attempted), wrong, note. text and more: sentences; code: lines shown as they are."""

    state: Literal["ok", "open", "wrong", "note"]
    title: str
    text: str = ""
    code: str = ""
    more: str = ""

    @property
    def ok(self) -> bool:
        """Is the answer right?"""
        return self.state == "ok"

    def __str__(self) -> str:
        head = f"{SIGNS[self.state]} {self.title}" + (f": {self.text}" if self.text else "")
        code = "\n".join(f"    {line}" for line in self.code.splitlines())
        return "\n".join(part for part in (head, code, self.more) if part)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        scroll = "overflow-x:auto;margin:.4em 0"
        code = f'<pre style="{scroll}"><code>{html.escape(self.code)}</code></pre>' if self.code else ""
        more = f"<div>{prose(self.more)}</div>" if self.more else ""
        head = f"<b>{SIGNS[self.state]} {prose(self.title)}</b>" + (f" {prose(self.text)}" if self.text else "")
        style = f"border-left:4px solid {COLOURS[self.state]};padding:.2em .8em;max-width:44em;line-height:1.4"
        return f'<div class="{NO_TEX}" style="{style}"><div>{head}</div>{code}{more}</div>'


def prose(text: str) -> str:
    """Text as HTML: everything escaped, `code` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
