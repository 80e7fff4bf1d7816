"""What an XID error asks for.

After NVIDIA's XID catalogue (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid Errors with the
Xid Catalog", Ampere and newer): the immediate action of each code, reduced to what a fleet can
do. Codes that are not listed ask for a look.
"""

from enum import StrEnum


class Action(StrEnum):
    """What to do about a GPU, from the least."""

    NOTHING = "nothing: the application was at fault"
    LOOK = "look the code up in NVIDIA's catalogue"
    RESET_LATER = "drain the replica when convenient and reset the GPU"
    RESTART = "restart the replica: its memory error was contained"
    RESET = "drain the replica and reset the GPU"
    LINK = "drain the replica, reset the GPU and have its NVLink checked"
    NODE = "drain the node and restart it: the GPU has left the bus"


_CODES = {
    # a fault of the program that runs: stream, page fault, stopped channel, clean-up
    Action.NOTHING: (8, 11, 13, 31, 32, 43, 45, 69),
    # rows remapped or a high rate of corrected errors: serves on
    Action.RESET_LATER: (63, 92),
    Action.RESTART: (94,),
    # double-bit error, halted microcontroller, failed remapping, uncontained error, GSP
    Action.RESET: (48, 61, 62, 64, 95, 109, 110, 119, 120, 140, 143),
    Action.LINK: (74, *range(144, 151)),
    Action.NODE: (79,),
}
_ACTIONS = {code: action for action, codes in _CODES.items() for code in codes}


def action_for(xid: int) -> Action:
    """What a code asks for."""
    return _ACTIONS.get(xid, Action.LOOK)
