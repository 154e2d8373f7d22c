"""The history: what each night measured on each machine, a strict-JSON file per night, and what people accepted."""

from harness.history.acceptance import Acceptance, load_acceptances
from harness.history.identity import Identity, machine_name
from harness.history.lines import lines
from harness.history.night import Alarm, Night
from harness.history.records import Cell, CellKey, Series, SeriesKey
from harness.history.store import History, LeftOut
from harness.history.strict_json import NightFileError

__all__ = [
    "Acceptance",
    "Alarm",
    "Cell",
    "CellKey",
    "History",
    "Identity",
    "LeftOut",
    "Night",
    "NightFileError",
    "Series",
    "SeriesKey",
    "lines",
    "load_acceptances",
    "machine_name",
]
