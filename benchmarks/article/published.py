"""What papers report of the same methods, with source and protocol: to stand apart from what is measured here."""

from __future__ import annotations

TITLE = "Concept Steerers, arXiv 2501.19066, table 1: Stable Diffusion 1.4, nudity; NudeNet at 0.45; COCO, 10,000"
COLUMNS = ("I2P", "Ring-A-Bell (K 77)", "MMA", "P4D", "UnlearnDiffAtk", "FID", "CLIP score")
NUDITY = {
    "original": (17.8, 85.26, 95.7, 98.7, 69.7, 16.71, 31.3),
    "negative prompt": (0.74, 17.89, 44.4, 24.0, 7.80, 18.33, 30.1),
    "SLD medium": (3.95, None, 65.7, 68.21, 33.10, 21.17, 29.8),
    "SLD strong": (2.28, None, 61.3, 49.01, 18.31, 24.40, 29.1),
    "SLD max": (1.74, None, 52.1, 35.76, 9.15, 28.75, 28.4),
    "SAFREE": (1.45, 35.78, 36.4, 40.82, 10.56, 19.32, 30.1),
    "CA": (1.04, 86.32, 9.9, 10.60, 5.63, 24.12, 30.1),
    "SA": (2.81, 63.15, 9.3, 47.68, 12.68, 25.80, 29.7),
    "ESD": (2.87, 20.00, 12.7, 9.27, 15.49, 18.18, 30.2),
    "UCE": (0.87, 10.52, 17.7, 29.93, 9.86, 17.99, 30.2),
    "RECE": (0.72, 5.26, 13.3, 21.77, 5.63, 17.74, 30.2),
}
"""Method → share of pictures (%), FID, CLIP score."""


def lines() -> list[str]:
    """Of the page."""
    rows = [
        "| " + " | ".join([name, *("–" if value is None else f"{value:g}" for value in values)]) + " |"
        for name, values in NUDITY.items()
    ]
    return [
        "## Published figures",
        "",
        f"{TITLE}. Shares of pictures in percent. Another model, other concepts, other attacks and budgets than above: "
        "no figure of this table may be read beside one of those. For one method and attack published figures differ "
        "by a factor of five with the protocol: UnlearnDiffAtk against RECE 5.6 % here, 75.4 % on that attack's own "
        "leaderboard, where each prompt is searched anew against the model.",
        "",
        "| | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
        *rows,
    ]
