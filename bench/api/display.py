"""Output in notebooks: progress of runs, and figures."""

from __future__ import annotations

import html
import io
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..cli.options import say_over
from ..cli.progress import Live, listener_for
from ..runner.head_to_head import Listener

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Seconds between two updates of the progress.
EVERY_S = 0.5
_FORMAT = '<pre style="line-height: 1.2">{code}</pre>'


def is_notebook() -> bool:
    """Whether this process displays its output in a notebook."""
    shell = vars(sys.modules["__main__"]).get("get_ipython")
    return callable(shell) and getattr(shell(), "kernel", None) is not None


def watcher(progress: bool | None) -> Listener:
    """The progress display of runs.

    Args:
        progress: True for bars; False for failures only; None for bars in a terminal or notebook.
    """
    if progress is not False and is_notebook():
        return NotebookProgress()
    return Live() if progress else listener_for(quiet=progress is False)


def line() -> Callable[[str], None]:
    """A function that replaces its last text: in the output of a cell, or as the last line of a terminal."""
    if not is_notebook():
        return say_over
    from IPython.display import HTML, display

    output = display(HTML(""), display_id=True)
    return lambda text: output.update(HTML(f"<pre>{html.escape(text)}</pre>" if text else ""))


class NotebookProgress(Live):
    """The progress bars of a terminal in the output of a cell, with notes below them."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        super().__init__()
        self._html, self._said = HTML, ""
        self._drawn = 0.0
        self._output = display(HTML(""), display_id=True)

    def preparing(self, what: str) -> None:
        self._draw(f"preparing: {what}")

    def _begin(self) -> None:
        self._draw()

    def event(self, job: Any, event: dict[str, Any]) -> None:
        super().event(job, event)
        if event["event"] == "done" or time.monotonic() - self._drawn > EVERY_S:
            self._draw()

    def _say(self, text: str) -> None:
        self._said += f"{text}\n"
        self._draw()

    def closed(self) -> None:
        self._draw()

    def _draw(self, above: str = "") -> None:
        from rich.console import Console

        console = Console(record=True, file=io.StringIO(), width=100, force_jupyter=False, highlight=False)
        if above:
            console.print(above, markup=False)
        if self._progress.tasks:
            console.print(self._progress.get_renderable())
        if self._said:
            console.print(self._said.rstrip(), markup=False)
        self._drawn = time.monotonic()
        self._output.update(self._html(console.export_html(inline_styles=True, code_format=_FORMAT)))


def show_figure(figure: Figure) -> None:
    """Show a figure in a notebook. Without this it would stay invisible, because it belongs to no window."""
    from IPython.display import Image, display

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    display(Image(stream.getvalue(), width=int(figure.get_figwidth() * 100)))
