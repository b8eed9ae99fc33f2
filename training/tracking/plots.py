"""Pictures of a training's tables, for MLflow's page; curves it draws itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from training.record import TableRow

SLATES, METRIC = "end_to_end", "ndcg@10"


def plots(tables: Mapping[str, Sequence[TableRow]]) -> dict[str, Figure]:
    """Draws what the tables of a record tell, by name."""
    drawn = {}
    if rows := tables.get("calibration"):
        drawn["calibration"] = calibration(rows)
    slates = [row for row in tables.get("evaluation", ()) if row["section"] == SLATES and METRIC in row]
    if slates:
        drawn["slates"] = bars(slates)
    return drawn


def calibration(rows: Sequence[TableRow]) -> Figure:
    """Draws how often what was predicted came true, a point for rows of equal number."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    most = max(max(row["predicted"], row["observed"]) for row in rows)
    axes.plot([0, most], [0, most], color="0.7", linewidth=1)
    axes.plot([row["predicted"] for row in rows], [row["observed"] for row in rows], marker="o")
    axes.set(xlabel="predicted", ylabel="observed", title="The ranker on validation's exposures")
    return figure


def bars(rows: Sequence[TableRow]) -> Figure:
    """Draws NDCG@10 of each way to make slates, the best on top."""
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(rows, key=lambda row: row[METRIC])
    drawn = axes.barh([row["model"] for row in ordered], [row[METRIC] for row in ordered])
    axes.bar_label(drawn, fmt="%.4f", padding=3)
    axes.set(xlabel="NDCG@10 on the test part", title="Slates, end to end")
    axes.margins(x=0.12)
    return figure
