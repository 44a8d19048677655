import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import fft, ndimage

from robustkit.errors import BadInput
from robustkit.numerics.frequencies import Subspace, low_frequencies, resized
from robustkit.numerics.tensors import as_tensor

SUBSPACES = [low_frequencies, resized]


def random(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_images_of_low_frequencies_are_those_of_an_inverse_cosine_transform():
    coefficients = random(2, 5, 3, 4, 6)
    padded = np.zeros((2, 5, 3, 8, 12))
    padded[..., :4, :6] = coefficients
    expected = fft.idctn(padded, axes=(-2, -1), norm="ortho")
    space = low_frequencies((3, 8, 12), 0.5)
    assert space.inner == (3, 4, 6)
    assert space.size == 72
    assert_allclose(space.images(as_tensor(coefficients)).raw, expected, atol=1e-12)


def test_coefficients_are_those_of_a_cosine_transform():
    images = random(2, 5, 3, 8, 12)
    expected = fft.dctn(images, axes=(-2, -1), norm="ortho")[..., :4, :6]
    space = low_frequencies((3, 8, 12), 0.5)
    assert_allclose(space.coefficients(as_tensor(images)).raw, expected, atol=1e-12)


def test_low_frequencies_keep_lengths():
    coefficients = random(7, 1, 5, 5)
    images = low_frequencies((1, 28, 28), 0.18).images(as_tensor(coefficients)).raw
    lengths = np.linalg.norm(images.reshape(7, -1), axis=1)
    assert_allclose(lengths, np.linalg.norm(coefficients.reshape(7, -1), axis=1))


def test_resizing_is_what_scipy_calls_zoom():
    coefficients = random(3, 4, 5)
    expected = ndimage.zoom(
        coefficients, (1, 3, 2), order=1, mode="nearest", grid_mode=True
    )
    space = resized((3, 12, 10), 1 / 3)
    assert space.inner == (3, 4, 3)
    space = Subspace(
        (3, 12, 10),
        (3, 4, 5),
        (resized((1, 12), 1 / 3).out[0], resized((1, 10), 1 / 2).out[0]),
        (),
    )
    assert_allclose(space.images(as_tensor(coefficients)).raw, expected, atol=1e-12)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("shape", [(3, 9, 7), (2, 10), (1, 5, 6, 7)])
def test_coefficients_and_images_belong_to_each_other(subspace, shape):
    space = subspace(shape, 0.4)
    coefficients = as_tensor(random(4, 2, *space.inner))
    images = space.images(coefficients)
    assert images.shape == (4, 2, *shape)
    assert_allclose(space.coefficients(images).raw, coefficients.raw, atol=1e-10)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_coefficients_of_any_image_are_those_of_the_nearest_in_the_subspace(subspace):
    space = subspace((2, 6, 5), 0.5)
    basis = space.images(as_tensor(np.eye(space.size).reshape(-1, *space.inner))).raw
    image = random(2, 6, 5)
    expected, *_ = np.linalg.lstsq(
        basis.reshape(space.size, -1).T, image.ravel(), rcond=None
    )
    found = space.coefficients(as_tensor(image))
    assert_allclose(found.raw.ravel(), expected, atol=1e-10)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_the_whole_of_each_side_is_everything(subspace):
    images = as_tensor(random(3, 2, 6, 5))
    space = subspace((2, 6, 5), 1.0)
    back = space.images(space.coefficients(images))
    assert_allclose(back.raw, images.raw, atol=1e-12)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_a_row_of_features_has_no_frequencies(subspace):
    rows = as_tensor(random(3, 8))
    space = subspace((8,), 0.1)
    assert space.inner == (8,)
    assert_array_equal(space.images(rows).raw, rows.raw)
    assert_array_equal(space.coefficients(rows).raw, rows.raw)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_the_same_in_every_framework(subspace, convert):
    coefficients = random(2, 3, 2, 3, 4)
    space = subspace((2, 6, 8), 0.5)
    expected = space.images(as_tensor(coefficients)).raw
    found = space.images(convert(coefficients))
    assert type(found) is type(convert(coefficients))
    assert found.dtype == convert(coefficients).dtype
    assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    back = space.coefficients(found).numpy()
    assert_allclose(back, coefficients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_an_image_is_the_same_in_any_company(subspace, convert):
    space = subspace((3, 32, 32), 0.25)
    coefficients = random(33, *space.inner)
    together = space.images(convert(coefficients)).numpy()
    for count in (1, 2, 5, 32):
        part = space.images(convert(coefficients[:count])).numpy()
        assert_array_equal(part, together[:count])


@pytest.mark.parametrize("subspace", SUBSPACES)
def test_a_tiny_share_keeps_one_coefficient(subspace):
    assert subspace((3, 8, 8), 1e-9).inner == (3, 1, 1)
    constant = subspace((1, 4, 4), 1e-9).images(as_tensor(np.ones((1, 1, 1))))
    assert np.ptp(constant.raw) == pytest.approx(0)


@pytest.mark.parametrize("subspace", SUBSPACES)
@pytest.mark.parametrize("share", [0, -0.5, 1.1, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(subspace, share):
    with pytest.raises(BadInput, match="share of each side must be above 0"):
        subspace((3, 8, 8), share)
