import numpy as np
import pytest

from robustkit.report.spectrum import spectrum


def wave(cycles, size=16, axis=0, channels=1):
    phase = 2 * np.pi * cycles * np.arange(size) / size
    image = np.cos(phase)[:, None] * np.ones((size, size))
    image = image if axis == 0 else image.T
    return np.repeat(image[:, :, None], channels, axis=2)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cycles", [1, 3, 8])
def test_a_wave_has_power_at_its_frequency_only(cycles, axis):
    found = spectrum([wave(cycles, axis=axis)])
    place = int(np.flatnonzero(np.isclose(found.frequency, cycles / 16))[0])
    others = np.delete(found.median, place)
    assert found.median[place] > 5
    assert others.max() < 1e-9 * found.median[place]


def test_every_frequency_up_to_the_highest_is_in_one_bin():
    found = spectrum([np.random.default_rng(0).normal(size=(16, 24, 3))])
    assert found.frequency[-1] == 0.5
    assert len(found.frequency) == 8
    assert found.count == 1


def test_white_noise_has_one_everywhere():
    noise = np.random.default_rng(0).normal(size=(400, 16, 16, 1))
    found = spectrum(list(noise))
    rows = np.array([spectrum([image]).median for image in noise])
    np.testing.assert_allclose(rows.mean(axis=0), 1, atol=0.08)
    assert (found.lower <= found.median).all()
    assert (found.median <= found.upper).all()


def test_units_offsets_and_channels_alike_change_nothing():
    image = np.random.default_rng(1).normal(size=(12, 12, 1))
    one = spectrum([image])
    for other in (1e-3 * image, image + 5, np.repeat(image, 3, axis=2)):
        np.testing.assert_allclose(spectrum([other]).median, one.median, rtol=1e-6)


def test_flat_images_have_none():
    assert spectrum([]) is None
    assert spectrum([np.full((8, 8, 1), 0.3)]) is None
    assert spectrum([np.zeros((8, 8, 3))]) is None
    some = spectrum([np.zeros((8, 8, 1)), wave(2, size=8)])
    assert some.count == 1
