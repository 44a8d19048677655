import numpy as np
import pytest
from PIL import Image

from robustkit.errors import BadInput
from robustkit.evaluation.data import load_data
from robustkit.numerics.bounds import Bounds


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def test_colour(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3))
    for i, name in enumerate(["dog/b", "cat/a", "dog/a", "dog/c", "cat/b"]):
        picture(tmp_path / "pets" / f"{name}.png", values[i])
    (tmp_path / "pets" / "dog" / "readme.txt").write_text("hello")
    (tmp_path / "pets" / "readme.txt").write_text("hello")
    data = load_data(tmp_path / "pets", Bounds(-1, 1))
    assert (data.name, data.count) == ("pets", 5)
    assert data.class_names == ("cat", "dog")
    assert data.notes == ("uint8 inputs scaled from 0..255 to [-1, 1]",)
    order = [1, 2, 4, 0, 3]  # cat/a, dog/a, cat/b, dog/b, dog/c
    x, y = next(data.batches(9))
    assert y.tolist() == [0, 1, 0, 1, 1]
    expected = values[order].transpose(0, 3, 1, 2) / 255 * 2 - 1
    np.testing.assert_allclose(x, expected, atol=1e-6)
    first = load_data(tmp_path / "pets", Bounds(-1, 1), samples=2)
    for found, expected in zip(next(first.batches(9)), (x[:2], y[:2]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_grey(tmp_path):
    values = np.arange(24).reshape(2, 4, 3)
    picture(tmp_path / "a" / "1.png", values[0])
    picture(tmp_path / "b" / "1.png", values[1])
    x, _ = next(load_data(tmp_path).batches(9))
    np.testing.assert_allclose(x, values[:, None] / 255, atol=1e-7)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_is_told(mode, tmp_path):
    image = Image.fromarray(np.zeros((2, 2, 3), np.uint8)).convert(mode)
    (tmp_path / "a").mkdir()
    clear = (0, 0, 0) if mode == "RGB" else 0
    image.save(tmp_path / "a" / "1.png", transparency=clear)
    notes = load_data(tmp_path).notes
    assert "transparency of the images was left out" in notes


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    picture(tmp_path / "a" / "1.png", np.full((2, 2), 255))
    picture(tmp_path / "a" / "2.png", np.zeros((2, 2, 4)))
    data = load_data(tmp_path)
    assert next(data.batches(9))[0].shape == (2, 3, 2, 2)
    assert "transparency of the images was left out" in data.notes


def test_faults(tmp_path):
    with pytest.raises(BadInput, match="0 subfolders and no images"):
        load_data(tmp_path)
    picture(tmp_path / "a" / "1.png", np.zeros((2, 3)))
    picture(tmp_path / "b" / "2.png", np.zeros((3, 2)))
    with pytest.raises(BadInput, match=r"one size.*1\.png.*\(3, 2\).*2\.png.*\(2, 3\)"):
        load_data(tmp_path)
    (tmp_path / "b" / "2.png").write_text("hello")
    with pytest.raises(BadInput, match=r"cannot read the image.*2\.png"):
        load_data(tmp_path)
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "b" / "2.png")
    with pytest.raises(BadInput, match=r"8 bits per channel.*2\.png"):
        load_data(tmp_path)


def test_cut_off_files_are_told(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3))
    picture(tmp_path / "a" / "1.png", noise)
    content = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"cannot read the image.*1\.png"):
        load_data(tmp_path)


def test_numbered_classes_whose_order_may_surprise(tmp_path):
    for name in ("2", "10", "1"):
        picture(tmp_path / name / "1.png", np.zeros((2, 3)))
    data = load_data(tmp_path)
    assert data.class_names == ("1", "10", "2")
    assert "'10' is label 1" in data.notes[-1]


def test_hidden_folders_and_files_are_no_classes_and_no_images(tmp_path):
    picture(tmp_path / ".cache" / "1.png", np.zeros((5, 5)))
    picture(tmp_path / "cat" / "1.png", np.zeros((2, 3)))
    picture(tmp_path / "dog" / "1.png", np.ones((2, 3)))
    (tmp_path / "dog" / "._1.png").write_text("what a Mac leaves on other disks")
    data = load_data(tmp_path)
    assert (data.class_names, data.count) == (("cat", "dog"), 2)


def test_classes_without_images_are_told(tmp_path):
    for name in ("cat", "dog"):
        picture(tmp_path / name / "1.png", np.zeros((2, 3)))
    (tmp_path / "bird").mkdir()
    (tmp_path / "fish").mkdir()
    data = load_data(tmp_path)
    assert data.class_names == ("bird", "cat", "dog", "fish")
    assert "no images of the classes 'bird', 'fish'" in data.notes


def test_damaged_files_are_told(tmp_path):
    file = tmp_path / "a" / "1.png"
    picture(file, np.random.default_rng(0).integers(0, 256, (20, 20, 3)))
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") - 1] ^= 255
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot read the image.*1\.png"):
        list(load_data(tmp_path).batches(1))


def test_numbers_that_are_no_decimals_are_names(tmp_path):
    for name in ("1", "²"):
        picture(tmp_path / name / "1.png", np.zeros((2, 3)))
    assert load_data(tmp_path).class_names == ("1", "²")
