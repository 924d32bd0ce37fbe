"""For authors of stores: the contract that every store keeps, the reference model, and a store that fails.

    from joinfs.testing import StoreContract

    class TestMine(StoreContract):
        def make_store(self, place):
            return MyStore(place / "medium")
"""

from joinfs.testing.contract import StoreContract
from joinfs.testing.contract_reading import ReadOnlyContract
from joinfs.testing.dictstore import DictStore
from joinfs.testing.faulty import Fault, FaultyStore, RandomFaults
from joinfs.testing.model import Entry, Tree

__all__ = ["DictStore", "Entry", "Fault", "FaultyStore", "RandomFaults", "ReadOnlyContract", "StoreContract", "Tree"]
