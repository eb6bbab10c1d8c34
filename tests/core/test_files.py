"""Files: scratch folders, trials of a disk, and what is said when the system refuses."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from mpkit.core import files
from mpkit.core.files import claimed, refused, require_room, scratch, write_atomically


def test_scratch_goes_in_the_end_and_by_the_next_where_its_process_was_killed(
    tmp_path: Path,
) -> None:
    with scratch(tmp_path / "store") as mine:
        assert mine.parent == tmp_path / "store"
        left = mine.with_name(".mpkit-killed")
        left.mkdir()
        (left / ".lock").touch()
        (left / "half.ipynb").touch()
        other = mine.with_name(".mpkit-alive")
        with claimed(other / ".lock"), scratch(tmp_path / "store") as next_one:
            assert sorted(p.name for p in mine.parent.iterdir()) == sorted(
                [mine.name, other.name, next_one.name]
            )
        with pytest.raises(RuntimeError, match="cell"), scratch(tmp_path / "store") as failed:
            raise RuntimeError("cell")
        assert not failed.exists()
    assert not list((tmp_path / "store").iterdir())


def test_a_folder_of_the_user_is_never_taken_for_scratch(tmp_path: Path) -> None:
    (tmp_path / ".mpkit-notes").mkdir()
    (tmp_path / ".mpkit-notes" / "mine.txt").touch()
    with scratch(tmp_path):
        pass
    assert (tmp_path / ".mpkit-notes" / "mine.txt").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    require_room(tmp_path / "not" / "yet" / "there")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(files, "TemporaryFile", refuse)
    with pytest.raises(OSError, match=r"directory|space|system|denied") as caught:
        require_room(tmp_path / "not" / "yet" / "there")
    assert caught.value.errno == number
    line = refused(caught.value)
    assert line.startswith(f"{tmp_path}: ")
    assert ("make room" if number == errno.ENOSPC else "another place") in line


def test_a_write_that_fails_names_its_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"record\.json") as caught:
        write_atomically(path, full)
    assert refused(caught.value).startswith(f"{path}: no space left on device; make room")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == "old"


def test_a_copy_of_many_files_tells_of_one(tmp_path: Path) -> None:
    many = [("from", f"to-{n}", "[Errno 28] No space left on device: 'to'") for n in range(50)]
    assert refused(shutil.Error(many)) == (
        "to-0: no space left on device; make room and give the same command again: what was "
        "finished before is kept"
    )
    assert refused(OSError("in words")) == "in words"
