"""How the proof of `verify` is shown: tables that fit a terminal, and a figure."""

from __future__ import annotations

import io
from typing import Any

from .verify import PITCHES, Row

#: Colours that readers with colour-blindness can tell apart (Okabe & Ito), and markers for print without colour.
_LOOKS = {"fd": ("#D55E00", "o"), "gauss": ("#0072B2", "s"), "gauss7": ("#009E73", "^")}
#: Headings of the three kinds of convergence test.
_KINDS = {"lift": "Ψ", "group": "Φ", "lift-tanh-group": "Ψ tanh Φ"}
_PITCH_KEYS = {"1": "error", "1/2": "error_half", "1/4": "error_quarter"}


def summary(rows: dict[str, list[Row]]) -> list[tuple[str, list[Row]]]:
    """Titles and tables (rows of strings and numbers) of the parts that `rows` holds."""
    tables = {"convergence": _convergence_table, "exactness": _exactness_table, "pitch": _pitch_table}
    return [tables[part](own) for part, own in rows.items()]


def _convergence_table(rows: list[Row]) -> tuple[str, list[Row]]:
    table: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = (row["stencil"], row["group"], row["angle_deg"], row["mirrored"])
        line = table.setdefault(
            key,
            {
                "stencil": row["stencil"],
                "group": row["group"],
                "moved by": f"{row['angle_deg']:g}°" + (" mirrored" if row["mirrored"] else ""),
                "in group": "yes" if row["in_group"] else "no",
                "theory": row["expected"] if row["expected"] == "exact" else f"h^{row['expected']}",
                **dict.fromkeys(_KINDS.values(), ""),
                "errors of Ψ": "",
                "ok": "yes",
            },
        )
        exact = row["expected"] == "exact"
        slope = "none" if row["slope"] is None else f"{row['slope']:.2f}"
        line[_KINDS[row["kind"]]] = ("exact" if row["ok"] else "not exact") if exact else slope
        if row["kind"] == "lift":
            # Of an exact row only the coarsest grid tells: its rounding error grows with h^-4.
            last = "" if exact else f" … {row['errors'][-1]:.1e}"
            line["errors of Ψ"] = f"{row['errors'][0]:.1e}{last}"
        if not row["ok"]:
            line["ok"] = "NO"
    steps = ", ".join(f"{h:g}" for h in PITCHES)
    title = (
        "Order of convergence: power of the grid step h in which the equivariance error vanishes, between the two\n"
        f"finest grids of h = {steps}; float64, fixed operators, no interpolation.\n"
        "Ψ lifting layer, Φ group layer. gauss7 is read down to 0.0125, where rounding takes over."
    )
    return title, list(table.values())


def _exactness_table(rows: list[Row]) -> tuple[str, list[Row]]:
    table: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        line = table.setdefault(
            (row["group"], row["offset_deg"]),
            {"group": row["group"], "offset": f"{row['offset_deg']:g}°", "exact under": row["symmetries"]},
        )
        line[row["stencil"]] = f"{row['error']:.0e}"
        line["ok"] = "NO" if not row["ok"] or line.get("ok") == "NO" else "yes"
    # The verdict last, whatever the order of the stencils.
    lines = [{**{k: v for k, v in line.items() if k != "ok"}, "ok": line["ok"]} for line in table.values()]
    title = (
        "Exactness: largest relative difference of the features of a small network (Ψ, ReLU, Φ with 2x2 means, ReLU,\n"
        "Φ, 1x1) under the symmetries of the pixel grid, on noise, with zero padding; at most 1e-12."
    )
    return title, lines


def _pitch_table(rows: list[Row]) -> tuple[str, list[Row]]:
    lines = []
    for depth in sorted({row["depth"] for row in rows}):
        own = [row for row in rows if row["depth"] == depth]
        for pitch, key in _PITCH_KEYS.items():
            line: Row = {"layers": depth, "pitch px": pitch}
            line |= {row["stencil"]: f"{row[key]:.1e}" if row[key] < 1e-3 else f"{row[key]:.3f}" for row in own}
            line["ok"] = "" if pitch != "1" else "yes" if all(row["ok"] for row in own) else "NO"
            lines.append(line)
    title = (
        "At the pitch of the pixels: error over the standard deviation of the features of"
        f" {rows[0]['group']} layers with ReLU,\n"
        f"random initial weights, blobs of 1 to 1.5 px turned by {rows[0]['angle_deg']:g}°;"
        " ok where the Gaussian stencils beat fd."
    )
    return title, lines


def plot(rows: dict[str, list[Row]]) -> bytes | None:
    """A figure (PNG): errors over the grid step, and over depth at the pitch of the pixels.

    None where `rows` holds neither part.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {"convergence": _plot_convergence, "pitch": _plot_pitch}
    shown = [part for part in panels if rows.get(part)]
    if not shown:
        return None
    figure = Figure(figsize=(5.2 * len(shown), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, part in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        panels[part](axes, rows[part])
        axes.grid(True, which="major", lw=0.4, alpha=0.5)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def _plot_convergence(axes: Any, rows: list[Row]) -> None:
    single = [r for r in rows if r["kind"] != "lift-tanh-group" and r["expected"] != "exact"]
    seen: set[str] = set()
    for row in single:
        colour, marker = _LOOKS[row["stencil"]]
        label = None if row["stencil"] in seen else f"{row['stencil']}, order {row['expected']}"
        seen.add(row["stencil"])
        axes.loglog(row["pitches"], row["errors"], color=colour, marker=marker, ms=3, lw=0.7, alpha=0.7, label=label)
    for order, height in ((2, 0.3), (4, 1.3e-4)):
        axes.loglog(PITCHES, [height * (h / PITCHES[0]) ** order for h in PITCHES], "k:", lw=1)
        axes.annotate(f"$h^{order}$", (PITCHES[0], height), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set(xlabel="grid step h (the test disc has radius 0.6)", ylabel="equivariance error")
    axes.set(xlim=(5e-3, 0.14), ylim=(1e-8, 0.5))
    axes.set_title("One layer, fixed operators: all groups and angles", fontsize=10)
    axes.legend(title="stencil", loc="lower right")


def _plot_pitch(axes: Any, rows: list[Row]) -> None:
    for stencil, (colour, marker) in _LOOKS.items():
        own = [r for r in rows if r["stencil"] == stencil]
        depths = [r["depth"] for r in own]
        axes.semilogy(depths, [r["error"] for r in own], color=colour, marker=marker, label=stencil)
        axes.semilogy(depths, [r["error_half"] for r in own], color=colour, marker=marker, ms=3, lw=0.8, ls="--")
    axes.plot([], [], "k--", lw=0.8, label="at half the pitch")
    axes.set(xlabel="layers with ReLU", ylabel="equivariance error", xticks=sorted({r["depth"] for r in rows}))
    axes.set_title("At the pitch of the pixels: p8, 45°, initial weights", fontsize=10)
    axes.legend()
