"""The strategy `default`: clears all overloads together with the fewest and cheapest migrations.

Steps, as ``strategy.plan`` takes them (formulas: docs/scoring.md):

    1. Group the snapshot: hosts and their use as arrays (``group``), the placement rules as one set (``rule_set``).
    2. Find the problems: CPU, memory, uplinks, drains (``plan.problems``, ``analyse.triggers``).
    3. Estimate what the domains of a host want, and what each frees by leaving and takes by arriving (``residents``).
    4. List what may leave: domains, or bundles of domains that rules keep together (``candidates``).
    5. List for each source the cheapest sets of candidates whose leaving solves its problem (``source``).
    6. Assign destinations: source by source, and by search where that is not provably the best (``assign``,
       ``search``). Every step is legal when it is made, so every prefix of the plan is (``trial``).
    7. If the policy says so, repair broken rules (``repair``) and even out the group (``balance``).
    8. Order the steps in waves, and predict both hosts after each move (``plan.waves``, ``predict_moves``).
    9. Give a reason for everything that was considered and stays (``why_not``; on request for any pair: ``consider``).
       Before a move begins, ``fit`` checks its pair again.

The data::

    Snapshot + Policy
          |
        Group ---- RuleSet                  all hosts: arrays (resources x hosts)
          |
       Residents                            one host: its running domains, arrays (domains)
          |
       Candidate, Candidate, ...            what may leave together
          |
        Source ---- Option, Option, ...     one host with a problem: the sets that solve it
          |
    Trial --apply(Step)--> Trial ...        the group after the steps so far; SearchState holds a few of its hosts
          |
        Step = Candidate -> destination
          |
    Plan: Move (predictions, wave, needs), Refusal (reason, numbers)
"""

from virtpoise_balancer.plan.default.fit import refusal
from virtpoise_balancer.plan.default.strategy import plan, predict

__all__ = ["plan", "predict", "refusal"]
