"""The balancer's own cycle on simulated or recorded hosts and virtual time.

    Scenario or Recording ──▶ StepDemand: what each step asks of the hosts, whatever the balancer does
                                │
    Course: ──▶ World ──▶ SimulatedObserver ──▶ control.Cycle ──▶ SimulatedExecutor ──▶ World
                │
                └──▶ Tally: overload, moves, refusals

``Cycle`` decides, plans, journals and settles as it does in production. Its clock, observer and executor are those of
this package, and its store is in memory. A run follows from its demand, its configuration and its seed alone.
"""
