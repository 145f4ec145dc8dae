import pytest
from raw_folders import data_config


@pytest.mark.parametrize("name", ["coco2017", "my data_set-2", "Blutkörperchen"])
def test_a_plain_name_is_taken(tmp_path, name):
    assert data_config(tmp_path, tmp_path, name=name).name == name


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "v1.0", "50%", "a'b", 'a"b', "-a", "a ", "a\n"])
def test_a_name_that_mlflow_would_refuse_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="is no name for data: only letters, digits"):
        data_config(tmp_path, tmp_path, name=name)


def test_a_resize_without_sizes_is_an_error(tmp_path):
    resize = {"type": "resize_shortest_edge", "sizes": [], "max_size": 64}
    with pytest.raises(ValueError, match="at least 1 item"):
        data_config(tmp_path, tmp_path, train_transforms=[resize])
