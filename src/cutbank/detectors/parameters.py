"""A detector's parameters, under their RANDOM_CUT_FOREST names in snake case, and their ranges. Values only.

Source of names, defaults and ranges: Kinesis Data Analytics SQL reference, RANDOM_CUT_FOREST.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

from cutbank.errors import UsageError

RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "dimensions": (1, 1000),
        "seed": (0, 2**63 - 1),
        "number_of_trees": (1, 1000),
        "sub_sample_size": (10, 1000),
        "time_decay": (1, 2_147_483_647),
        "shingle_size": (1, 30),
    }
)
"""Parameter -> (least, greatest), both allowed."""

POINT_DIMENSIONS_MAX = 1000
"""Most numbers in a point: dimensions * shingle_size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a detector is made from. Raises UsageError, with the range, for a value outside its own."""

    dimensions: int
    """Features of a record, 1 to 1000; times shingle_size at most 1000."""
    seed: int = 7
    """Start of all randomness, 0 to 2**63 - 1."""
    number_of_trees: int = 100
    """rcf: 1 to 1000."""
    sub_sample_size: int = 256
    """rcf: records that a tree samples, 10 to 1000, below time_decay; as many shingles are learnt at score 0."""
    time_decay: int = 100_000
    """rcf: shingles after which the past counts for a factor e less, 1 to 2147483647."""
    shingle_size: int = 1
    """rcf: records in a row that make a point, 1 to 30."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least, greatest = RANGES[name]
            if type(value) is not int or not least <= value <= greatest:
                raise UsageError(f"{name} must be an integer from {least} to {greatest}, not {value!r}")
        if self.sub_sample_size >= self.time_decay:
            raise UsageError(f"sub_sample_size ({self.sub_sample_size}) must be below time_decay ({self.time_decay})")
        if self.dimensions * self.shingle_size > POINT_DIMENSIONS_MAX:
            raise UsageError(
                f"dimensions * shingle_size must be at most {POINT_DIMENSIONS_MAX}, "
                f"not {self.dimensions} * {self.shingle_size}"
            )

    @property
    def point_dimensions(self) -> int:
        """Numbers in a point of the forest."""
        return self.dimensions * self.shingle_size

    @property
    def warm_up_records(self) -> int:
        """rcf: records at the start whose score is 0: until sub_sample_size shingles have been learnt."""
        return self.sub_sample_size + self.shingle_size - 1
