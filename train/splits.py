"""Train/val/test splits: read from a CSV file, or computed from a hash of the image names."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from polypstream.errors import DatasetError
from polypstream.train.data import Pair

Split = Literal["train", "val", "test"]
SplitColumn = Literal["grouped", "random"]
Splits = Mapping[tuple[str, str], str]
"""From `Pair.key` to a `Split`."""


def splits_from_csv(path: Path, column: SplitColumn) -> Splits:
    """Read `dataset,image,<column>` rows, which assign a split to each (data set, image stem).

    Raises `DatasetError`, which lists every row without a valid split.
    """
    splits, problems = {}, []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in ("dataset", "image", column) if name not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(
                    f"{path} has no column {', '.join(missing)}; it should have dataset, image, {column}"
                )
            for row in reader:
                if row[column] not in get_args(Split) or not row["image"]:
                    problems.append(f"line {reader.line_num} says {row[column]!r}")
                    continue
                splits[row["dataset"].lower(), Path(row["image"]).stem] = row[column]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f"{path} cannot be read as a splits file ({reason}); check --splits") from error
    if problems:
        raise DatasetError(f"{path}: {'; '.join(problems)}; it should be one of {', '.join(get_args(Split))}")
    return splits


def splits_by_hash(pairs: Iterable[Pair]) -> Splits:
    """Split 80/10/10 by a hash of each image's name, independent of the other files in the folder.

    Patients and sequences are not known here, so near-duplicates may end up in different splits.
    """
    return {pair.key: _BY_TENTH[hashlib.sha256(pair.image.stem.encode()).digest()[0] * 10 // 256] for pair in pairs}


_BY_TENTH: tuple[Split, ...] = ("train",) * 8 + ("val", "test")


def split_pairs(pairs: Iterable[Pair], splits: Splits, split: Split) -> list[Pair]:
    """The pairs that belong to `split`; raises `DatasetError`, which lists all pairs that are in no split."""
    pairs = list(pairs)
    unnamed = [f"{pair.dataset}/{pair.image.name}" for pair in pairs if pair.key not in splits]
    if unnamed:
        known = ", ".join(sorted({dataset for dataset, _ in splits}))
        raise DatasetError(
            f"{len(unnamed)} images are in no split (the splits name the data folders {known}): {', '.join(unnamed)}"
        )
    return [pair for pair in pairs if splits[pair.key] == split]
