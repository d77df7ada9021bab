"""Every detector of the registry against the detectors' contract."""

import pytest

from cutbank import detectors
from cutbank.detectors.base import Detector
from cutbank.testing.detector_contract import DetectorContract

WARM_UP_RECORDS = {"rcf": 256, "ensemble": 256, "hst": 250}
AUC_LEAST = {"rcf": 0.99, "ensemble": 0.99, "hst": 0.9}
FROZEN = {
    "rcf": "0290513a76fecbf45aedc25127426c957edf1b436988bafcfbf3f3ca6821d4eb",
    "ensemble": "0290513a76fecbf45aedc25127426c957edf1b436988bafcfbf3f3ca6821d4eb",
    "hst": "44298769d1acbf31ccbec0d16b3b4e642ba44530d8d9aa83ea83b70aff91bcaf",
}


@pytest.mark.parametrize("name", sorted(detectors.DETECTORS))
class TestRegistered(DetectorContract):
    @pytest.fixture(autouse=True)
    def _named(self, name: str) -> None:
        self.name = name
        self.warm_up_records = WARM_UP_RECORDS[name]
        self.auc_least = AUC_LEAST[name]
        self.digest = FROZEN[name]

    def create(self, *, dimensions: int, seed: int) -> Detector:
        return detectors.create(self.name, dimensions=dimensions, seed=seed)

    def restore(self, data: bytes) -> Detector:
        return detectors.from_bytes(data)

    def test_names_itself_as_the_registry_does(self, detector: Detector) -> None:
        assert detector.name == self.name
        assert detector.algorithm_version == detectors.algorithm_version(self.name)
