"""What the room offers is named, sorted and there."""

import monitor


def test_the_face_is_sorted_and_complete() -> None:
    assert list(monitor.__all__) == sorted(monitor.__all__)
    assert all(hasattr(monitor, name) for name in monitor.__all__)
