"""The rendered plates in tests/samples, with the text on each."""

import csv
from pathlib import Path

import httpx

FOLDER = Path(__file__).parents[1] / "samples"
SAMPLES = [(row["file"], row["text"]) for row in csv.DictReader((FOLDER / "labels.csv").open(encoding="utf-8"))]
FILE, TEXT = SAMPLES[0]


def read(url: str) -> str:
    """The text on a sample, on a connection of its own."""
    answer = httpx.post(f"{url}/recognize", files={"image": (FILE, (FOLDER / FILE).read_bytes())}, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["results"][0]["plates"][0]["text"])
