"""A printed photo of the dock in true size: near it no pose is given; the dock itself gives one on the same way."""

from bench.photo import LAST_M, measure


def test_a_photo_is_not_driven_up_to():
    found = measure(2)
    near = f"approaches with a pose below {LAST_M} m"
    assert found["photo"][near] == 0
    assert found["dock"][near] == 2
    share = "frames with a pose, mean %"
    # Farther off a photo is believed near the photographer's distance, and beyond what can be told.
    assert found["dock"][share] > 90 > 75 > found["photo"][share]
