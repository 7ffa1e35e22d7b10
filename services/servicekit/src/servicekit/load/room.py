"""Who goes so that a more important or less greedy request can wait."""

from collections.abc import Collection

from servicekit.load.counts import Counts
from servicekit.load.lane import Lane, Slot
from servicekit.load.priority import Priority


def make_room(lanes: Collection[Lane], counts: Counts, lane: Lane, newcomer: Slot) -> bool:
    """Turn away one that waits, on whichever lane, for a newcomer of `lane`; return False when that is the least."""
    for priority in Priority:
        if priority < newcomer.priority and counts.waiting[priority] > counts.reserve(priority):
            crowded = max(lanes, key=lambda each: each.queue.waiting_in(priority))
            if crowded.queue.waiting_in(priority):
                crowded.shed(crowded.queue.newest(priority))
                return True
    priority = newcomer.priority
    crowded = max(lanes, key=lambda each: each.queue.waiting_in(priority))
    if crowded is not lane and crowded.queue.waiting_in(priority) > lane.queue.waiting_in(priority) + 1:
        crowded.shed(crowded.queue.newest(priority))
        return True
    victim = lane.queue.victim(newcomer)
    if victim is not newcomer:
        lane.shed(victim)
    return victim is not newcomer
