"""What holds for every test.

Hypothesis draws other examples in every run, which finds more; where `CI` is set it draws the same ones, so that a
commit passes or fails by what it changes. No example is timed.
"""

import os

from hypothesis import settings

pytest_plugins = ["brokers.fixtures", "containers.fixtures", "object_servers.fixtures"]

settings.register_profile("free", deadline=None)
settings.register_profile("ci", settings.get_profile("ci"), deadline=None)
settings.load_profile("ci" if "CI" in os.environ else "free")
