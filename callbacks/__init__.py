"""Lightning callbacks, one a file."""

from rece_lightning.callbacks.base import RunCallback
from rece_lightning.callbacks.checkpoint import ErasureCheckpoint
from rece_lightning.callbacks.erase import Erase
from rece_lightning.callbacks.evaluation import Evaluation
from rece_lightning.callbacks.export import Export
from rece_lightning.callbacks.pictures import PictureWriter
from rece_lightning.callbacks.placement import DevicePlacement
from rece_lightning.callbacks.red_team import RedTeam
from rece_lightning.callbacks.report import Report

__all__ = [
    "DevicePlacement",
    "Erase",
    "ErasureCheckpoint",
    "Evaluation",
    "Export",
    "PictureWriter",
    "RedTeam",
    "Report",
    "RunCallback",
]
