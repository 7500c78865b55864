"""The random generators of the devices."""

import device_names
from device_names import *  # noqa: F403 - the names below

__all__ = list(device_names.RANDOM)
