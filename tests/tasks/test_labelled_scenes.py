"""Labelled photographs as scenes."""

import numpy as np
import pytest

from model_builder.tasks import labelled_scenes
from model_builder.train.labels import DataError
from tests.support.images import encode

HEAD = "file,x1,y1,x2,y2,x3,y3,x4,y4\n"


def test_a_photograph_has_all_its_plates(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "two.png").write_bytes(encode(".png"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    lines = ("two.png,1,2,3,2,3,4,1,4", "broken.png,1,2,3,2,3,4,1,4", "two.png,5,6,7,6,7,8,5,8")
    (tmp_path / "labels.csv").write_text(HEAD + "\n".join(lines))
    (scenes,) = labelled_scenes.read_sets([tmp_path]).values()
    assert len(scenes) == 2
    (scene,) = scenes
    assert scene.image.ndim == 3
    np.testing.assert_array_equal(scene.plates[1].corners, [[5, 6], [7, 6], [7, 8], [5, 8]])
    assert "broken.png left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("listing", "message"),
    [("file,text\na.png,A\n", "lacks the columns x1, y1"), (HEAD + "a.png,,,,,,,,\n", "line 2 has no corners")],
)
def test_a_list_without_corners_is_refused(tmp_path, listing, message):
    (tmp_path / "labels.csv").write_text(listing)
    with pytest.raises(DataError, match=message):
        labelled_scenes.read_sets([tmp_path])
