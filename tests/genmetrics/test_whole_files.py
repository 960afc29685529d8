import pytest

from genmetrics.errors import UsageError
from genmetrics.whole_files import written_whole


def fail_midway(path):
    with written_whole(path) as draft:
        draft.write_text("half")
        raise KeyError


def test_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "scores.npz"
    path.write_text("old")
    with written_whole(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_block_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "scores.npz"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail_midway(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_place_that_cannot_be_written_is_a_usage_error(folder, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / folder / "scores.npz"
    message = "Expected a writable file; got"
    with pytest.raises(UsageError, match=message), written_whole(path) as draft:
        draft.write_text("new")
