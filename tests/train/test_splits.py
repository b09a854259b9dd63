from pathlib import Path

import pytest

from polypstream.errors import DatasetError
from polypstream.train.data import Pair
from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv


def pair(name: str, dataset: str = "Discs") -> Pair:
    return Pair(dataset=dataset, image=Path(name), mask=Path(name))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_column_decides(tmp_path: Path) -> None:
    path = written(
        tmp_path / "splits.csv", "dataset,image,grouped,random\ndiscs,1.jpg,train,test\ndiscs,2.jpg,val,train\n"
    )
    pairs = [pair("1.png"), pair("2.png")]
    assert split_pairs(pairs, splits_from_csv(path, "grouped"), "train") == pairs[:1]
    assert split_pairs(pairs, splits_from_csv(path, "random"), "train") == pairs[1:]
    assert split_pairs(pairs, splits_from_csv(path, "random"), "val") == []


def test_every_image_in_no_split_is_listed(tmp_path: Path) -> None:
    path = written(tmp_path / "splits.csv", "dataset,image,grouped\ndiscs,1.jpg,train\n")
    with pytest.raises(DatasetError, match=r"^2 images are in no split \(.*discs\): Discs/2.png, Discs/3.png$"):
        split_pairs([pair("1.png"), pair("2.png"), pair("3.png")], splits_from_csv(path, "grouped"), "train")


def test_every_row_of_no_known_split_is_listed(tmp_path: Path) -> None:
    path = written(tmp_path / "splits.csv", "dataset,image,grouped\nd,1.jpg,train\nd,2.jpg,tran\nd,3.jpg\n")
    with pytest.raises(DatasetError, match=r"line 3 says 'tran'; line 4 says None"):
        splits_from_csv(path, "grouped")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no column random"):
        splits_from_csv(written(tmp_path / "splits.csv", "dataset,image,grouped\n"), "random")


def test_a_missing_file_says_which_option(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="check --splits"):
        splits_from_csv(tmp_path / "none.csv", "grouped")


def test_the_hash_gives_80_10_10_and_never_changes() -> None:
    pairs = [pair(f"{number}.png") for number in range(2000)]
    splits = splits_by_hash(pairs)
    shares = [len(split_pairs(pairs, splits, name)) / len(pairs) for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert splits_by_hash(pairs[5:6]).items() <= splits.items()
    assert [splits["discs", str(number)] for number in range(8)] == FIRST_EIGHT


FIRST_EIGHT = ["train", "train", "val", "train", "train", "test", "test", "train"]
