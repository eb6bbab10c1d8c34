"""Folders of pictures as people have them: the right pixels, or the file and the reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mpkit.core.files import DataError
from mpkit.data import load

GREY = np.linspace(0, 1, 30).reshape(5, 6)


def filled(base: Path, count: int = 2, suffix: str = ".png") -> Path:
    """A folder of two classes of grey pictures, 5 x 6."""
    for label in ("a", "b"):
        (base / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = Image.fromarray(np.full((5, 6), 40 * number + 10, np.uint8))
            picture.save(base / label / f"{number}{suffix}", format="PNG")
    return base


def alone(base: Path, picture: Image.Image, name: str, **how: object) -> torch.Tensor:
    """The pixels of a picture that is the only one of class a in the training split."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (base / split / label).mkdir(parents=True, exist_ok=True)
            picture.save(base / split / label / name, **how)  # type: ignore[arg-type]
    return load(f"folder:{base}").x[0]


def test_float_pictures_keep_their_values(tmp_path: Path) -> None:
    x = alone(tmp_path, Image.fromarray(GREY.astype(np.float32)), "x.tiff")
    assert torch.equal(x[0], torch.from_numpy(GREY.astype(np.float32)))


def test_sixteen_bits_are_divided_by_their_largest_value(tmp_path: Path) -> None:
    stored = (GREY * 65535).astype(np.uint16)
    for name in ("x.png", "x.tiff"):
        x = alone(tmp_path / name, Image.fromarray(stored), name)
        assert torch.equal(x[0], torch.from_numpy(stored.astype(np.float32) / np.float32(65535)))


REFUSED = {
    "floats beyond one": (
        Image.fromarray(GREY.astype(np.float32) * 255),
        "x.tiff",
        r"mode F.* 255",
    ),
    "floats with NaN": (Image.fromarray(np.full((5, 6), np.nan, np.float32)), "x.tiff", "mode F"),
    "32-bit integers": (Image.fromarray((GREY * 1e6).astype(np.int32)), "x.tiff", "mode I"),
    "transparent": (Image.new("RGBA", (6, 5), (9, 9, 9, 100)), "x.png", "transparent.*RGBA"),
    "transparent grey": (Image.new("LA", (6, 5), (9, 100)), "x.png", "transparent.*LA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_one_meaning_is_refused_with_file_and_mode(tmp_path: Path, case: str) -> None:
    picture, name, words = REFUSED[case]
    with pytest.raises(DataError, match=rf"[ab]/{name}: .*{words}"):
        alone(tmp_path, picture, name)


def test_an_opaque_alpha_is_nothing(tmp_path: Path) -> None:
    x = alone(tmp_path, Image.new("RGBA", (6, 5), (255, 0, 51, 255)), "x.png")
    assert torch.equal(x[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, turn: int) -> None:
    from PIL import ImageOps

    pixels = (GREY * 255).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = turn
    x = alone(tmp_path, Image.fromarray(pixels), "x.png", exif=exif)
    picture = Image.open(tmp_path / "train" / "a" / "x.png")
    upright = np.asarray(ImageOps.exif_transpose(picture))
    assert x.shape[1:] == upright.shape == ((6, 5) if turn >= 5 else (5, 6))
    assert torch.equal(x[0], torch.from_numpy(upright.astype(np.float32) / np.float32(255)))


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "val"), ("train", "Validation")],
)
def test_a_split_is_known_by_its_usual_names(tmp_path: Path, train: str, test: str) -> None:
    filled(tmp_path / train, 3)
    filled(tmp_path / test, 1)
    assert [len(load(f"folder:{tmp_path}", split)) for split in ("train", "test")] == [6, 2]
    assert load(f"folder:{tmp_path}").classes == ("a", "b")


def test_a_test_split_goes_before_a_validation_split(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("val", 2), ("test", 1)):
        filled(tmp_path / name, count)
    assert len(load(f"folder:{tmp_path}", "test")) == 2


@pytest.mark.parametrize("twins", [("train", "training"), ("train", "Train"), ("test", "testing")])
def test_two_folders_for_one_split_are_refused(tmp_path: Path, twins: tuple[str, str]) -> None:
    for name in {"train", "test", *twins}:
        filled(tmp_path / name)
    with pytest.raises(DataError, match="keep one of them"):
        load(f"folder:{tmp_path}")


def test_half_a_split_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "Training")
    with pytest.raises(DataError, match=r"test: missing beside Training/"):
        load(f"folder:{tmp_path}")


def test_jfif_and_linked_folders_are_read(tmp_path: Path) -> None:
    base = filled(tmp_path / "data", 5, ".jfif")
    filled(tmp_path / "elsewhere", 5)
    (base / "a" / "more").symlink_to(tmp_path / "elsewhere" / "a")
    (base / "a" / "back").symlink_to(base / "a")
    (base / "b" / "linked.png").symlink_to(tmp_path / "elsewhere" / "b" / "0.png")
    found = [load(f"folder:{base}", split) for split in ("train", "test")]
    assert sum(len(images) for images in found) == 10 + 5 + 1


def test_files_of_another_kind_are_left_out_with_a_word(tmp_path: Path) -> None:
    base = filled(tmp_path, 5)
    (base / "a" / "notes.txt").write_text("x")
    (base / "a" / "Thumbs.db").write_text("x")
    with pytest.warns(UserWarning, match=r"a: left out 1 file\(s\) .* notes\.txt"):
        load(f"folder:{base}")


def both(base: Path) -> None:
    """Load both splits: either may hold the odd picture."""
    for split in ("train", "test"):
        load(f"folder:{base}", split)


def test_whatever_a_decoder_raises_the_file_is_named(tmp_path: Path) -> None:
    base = filled(tmp_path)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("L", (6, 5)).save(base / "a" / "0.png", pnginfo=text)
    with pytest.raises(DataError, match=r"a/0\.png: not a readable picture \(ValueError"):
        both(base)
    (base / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/0\.png: not a readable picture"):
        both(base)


def test_the_advice_for_sizes_keeps_the_shape_of_what_is_shown(tmp_path: Path) -> None:
    base = filled(tmp_path, 3)
    Image.new("L", (60, 5)).save(base / "a" / "0.png")
    with pytest.raises(DataError, match=r"-auto-orient -resize 6x5\^ -gravity center -extent 6x5"):
        both(base)


def test_a_picture_on_its_side_in_a_tiff_is_refused(tmp_path: Path) -> None:
    """Its decoder turns it at opening, and mixes its pixels up where it is not compressed."""
    exif = Image.Exif()
    exif[274] = 6
    with pytest.raises(DataError, match=r"x\.tif: a TIFF that lies on its side.*auto-orient"):
        alone(tmp_path, Image.fromarray((GREY * 255).astype(np.uint8)), "x.tif", exif=exif)


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((5, 6), 90 * n, np.uint8)) for n in range(3)]
    for name in ("x.gif", "x.tiff", "x.webp", "x.png"):
        with pytest.raises(DataError, match=f"{name}: holds 3 pictures"):
            alone(tmp_path / name, frames[0], name, save_all=True, append_images=frames[1:])


def test_links_lead_to_pictures_of_their_own_class(tmp_path: Path) -> None:
    base = filled(tmp_path / "images", 6)
    (tmp_path / "more").mkdir()
    Image.fromarray(np.full((5, 6), 200, np.uint8)).save(tmp_path / "more" / "far.png")
    (base / "a" / "more").symlink_to(tmp_path / "more")
    (base / "a" / "again").symlink_to(base / "a")
    both = len(load(f"folder:{base}").x) + len(load(f"folder:{base}", "test").x)
    assert both == 13
    for target in (base, base / "b", tmp_path):
        (base / "a" / "up").symlink_to(target)
        with pytest.raises(DataError, match=r"up: a link to .*, which holds other classes"):
            load(f"folder:{base}")
        (base / "a" / "up").unlink()


@pytest.mark.parametrize("where", ["a/lost.png", "a/lost", "c"])
def test_a_link_to_nothing_is_named(tmp_path: Path, where: str) -> None:
    base = filled(tmp_path / "images", 6)
    (base / where).symlink_to("/nowhere/at/all")
    with pytest.raises(DataError, match=f"{where}: a link to /nowhere/at/all"):
        load(f"folder:{base}")


def test_both_splits_are_of_one_form(tmp_path: Path) -> None:
    base = filled(tmp_path / "whole", 6)
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(base / "a" / "colour.png")
    assert load(f"folder:{base}").x.shape[1:] == load(f"folder:{base}", "test").x.shape[1:]
    split = tmp_path / "split"
    filled(split / "train"), filled(split / "test")
    for label in ("a", "b"):
        for number in range(2):
            Image.fromarray(np.zeros((7, 9), np.uint8)).save(
                split / "test" / label / f"{number}.png"
            )
    for half in ("train", "test"):
        with pytest.raises(DataError, match="pixels, but most pictures are"):
            load(f"folder:{split}", half)


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    base = filled(tmp_path / "images", 3)
    (Path(os.fsdecode(bytes(base / "a") + b"/caf\xe9.png"))).write_bytes(b"x")
    with pytest.raises(DataError, match=r"caf\\xe9\.png': its name is not in UTF-8; rename"):
        load(f"folder:{base}")
