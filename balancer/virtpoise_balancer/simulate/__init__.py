"""The balancer's own cycle on simulated or recorded hosts and virtual time.

    Scenario or Recording ──▶ Script: what is asked of the hosts, step by step, whatever the balancer does
                                │
    Loop: ──▶ World ──▶ SimulatedObserver ──▶ control.Cycle ──▶ SimulatedExecutor ──▶ World
                │
                └──▶ Tally: overload, moves, refusals

``Cycle`` decides, plans, journals and settles as it does in production. Its clock, observer and executor are those of
this package, and its store is in memory. A run follows from its script, its configuration and its seed alone.
"""
