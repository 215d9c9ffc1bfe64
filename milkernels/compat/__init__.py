"""Drop-in heads for other people's models, and `replace`, which swaps them in.

Each head loads the original's state_dict unchanged and gives its numbers to rounding; where the
original is wrong, its docstring says what differs.
"""

from milkernels.compat.abmil import GatedAttention
from milkernels.compat.att_block import AttBlock, AttBlockV2
from milkernels.compat.desed import DESEDHead
from milkernels.compat.replacement import Kept, Replaced, Report, replace
from milkernels.compat.speechbrain import AttentiveStatisticsPooling

__all__ = [
    "AttBlock",
    "AttBlockV2",
    "AttentiveStatisticsPooling",
    "DESEDHead",
    "GatedAttention",
    "Kept",
    "Replaced",
    "Report",
    "replace",
]
