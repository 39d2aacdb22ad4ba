"""Run: runs schedules by their seeds, and shows a failing one step by step.

For example ``python -m tests.simulation.run --seed 123``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings

from tests.simulation.world import InvariantError, World


def main() -> int:
    """Run the schedules. The exit status is 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of the schedule, or of the first one")
    parser.add_argument("--schedules", type=int, default=1, help="how many schedules to run")
    parser.add_argument("--late", action="store_true", help="let requests arrive after their process was replaced")
    parser.add_argument("--trace", action="store_true", help="show the steps of a schedule that passes as well")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    # A process that is killed leaves coroutines that never began.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    started, failed = time.process_time(), 0
    for seed in range(options.seed, options.seed + options.schedules):
        world = World(seed, late=options.late)
        try:
            world.run()
        except InvariantError as error:
            failed += 1
            print(error)
        if options.schedules == 1 and (failed or options.trace):
            print("\n".join(f"{at:8.2f} {what}" for at, what in world.trace))
    print(f"{options.schedules} schedules, {failed} failed, {time.process_time() - started:.1f} s of one core")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
