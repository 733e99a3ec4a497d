"""Text for the formats of tables, escaped so that it is never read as markup."""

from __future__ import annotations

import re

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "→": r"$\to$", "±": r"$\pm$", "–": "--",
    "Δ": r"$\Delta$", "α": r"$\alpha$", "∝": r"$\propto$", "ⁿ": r"$^n$", "‖": r"$\|$", "σ": r"$\sigma$",
}  # fmt: skip


def latex(text: str) -> str:
    """Text that LaTeX prints unchanged; characters that it cannot print become ``?``."""
    # Fonts replace some pairs by one character: -- is a dash.
    parts = re.split(r"(?<=([-,'`]))(?=\1)|(?<=[?!])(?=`)", text)[::2]
    text = "{}".join("".join(_LATEX.get(c, c) for c in part) for part in parts)
    return re.sub(r"[^\x20-\x7e\u00a1-\u00ff]", "?", text)


def latex_number(text: str) -> str:
    """As `latex`, but with powers of ten: ``2e-06`` becomes 2×10⁻⁶."""
    power = r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?)0*(\d+)(?!\w)"
    return re.sub(power, lambda m: rf"${m[1]}\times 10^{{{m[2].strip('+')}{m[3]}}}$", latex(text))


def for_latex(table: str, style: str) -> str:
    """A table from tabulate, with characters replaced that LaTeX cannot print; tables in other styles are unchanged."""
    if not style.startswith("latex"):
        return table
    return "".join(_LATEX[c] if not c.isascii() and c in _LATEX else c for c in table)


def markdown_line(text: str) -> str:
    """As `markdown_text`, for the beginning of a line: it starts no heading, list or quotation, and is no rule."""
    return re.sub(r"^(\d*)(?=(?<=\d)[.)](\s|$)|(?<!\d)(?:>|--+$|(#+|[-+])(\s|$)))", r"\1\\", markdown_text(text))


def markdown_text(text: str) -> str:
    """Text that neither ends a cell of a Markdown table nor becomes markup."""
    text = " ".join(text.split())
    return re.sub(r"([|\\`*_~$\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
