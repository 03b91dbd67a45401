"""The dashboard of the balancer: cycles, decisions, refusals, migrations."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.fleet import STATES, THRESHOLD_LINE
from virtpoise_dashboards.model import (
    BAD_IF_ANY,
    GREEN,
    Dashboard,
    Heatmap,
    Query,
    Row,
    Stat,
    StateTimeline,
    Step,
    Style,
    Table,
    TimeSeries,
    Value,
    Variable,
)
from virtpoise_dashboards.promql import BALANCER, EVENTS_STEP, THRESHOLD, ended_in_range, ended_in_steps

BY_HOST = f'{BALANCER}, host=~"$host"'
RESULTS = (
    Style("^idle$", "blue"),
    Style("^recommended$", "purple"),
    Style("^(moved|done)$", "green"),
    Style("^(waiting|skipped)$", "yellow"),
    Style("^failed$", "red"),
)


def _quantile(quantile: float, metric: str) -> str:
    return (
        f"histogram_quantile({quantile}, sum by (le) (rate(virtpoise_{metric}_bucket{{{BALANCER}}}[$__rate_interval])))"
    )


def _distribution(title: str, description: str, metric: str) -> Heatmap:
    return Heatmap(
        title=title,
        description=description,
        queries=(
            Query(
                f"sum by (le) (increase(virtpoise_{metric}_bucket{{{BALANCER}}}[$__rate_interval]))",
                "{{le}}",
                format="heatmap",
                min_step=EVENTS_STEP,
            ),
        ),
        unit="s",
    )


def _number(
    title: str, description: str, expr: str, unit: str, steps: tuple[Step, ...], values: tuple[Value, ...] = ()
) -> Stat:
    return Stat(
        title=title,
        description=description,
        queries=(Query(expr, title, instant=True),),
        unit=unit,
        steps=steps,
        values=values,
        width=3,
    )


NOW = Row(
    "Now",
    (
        Stat(
            title="Mode",
            description="automatic: the balancer carries out its plans. recommend: a person applies them. While the brake "
            "is on, the mode is recommend.",
            queries=(Query(f"max by (mode) (virtpoise_mode{{{BALANCER}}}) == 1", "{{mode}}", instant=True),),
            unit="none",
            names=True,
            steps=GREEN,
            width=3,
        ),
        Stat(
            title="Active balancer",
            description="One of several balancers is active, the others are on standby.",
            queries=(Query(f"max by (instance) (virtpoise_leader{{{BALANCER}}}) == 1", "{{instance}}", instant=True),),
            unit="none",
            names=True,
            steps=GREEN,
            width=3,
        ),
        _number(
            "Last cycle",
            "Time since the newest cycle. Cycles continue during migrations.",
            f"time() - max(virtpoise_last_cycle_timestamp_seconds{{{BALANCER}}})",
            "s",
            (Step(None, "green"), Step(60, "yellow"), Step(300, "red")),
        ),
        _number(
            "Age of the samples",
            "Age of the newest sample of any host that the balancer has seen.",
            f"max(virtpoise_snapshot_age_seconds{{{BALANCER}}})",
            "s",
            (Step(None, "green"), Step(30, "yellow"), Step(120, "red")),
        ),
        _number(
            "Moves in the plan",
            "Migrations in the newest plan.",
            f"max(virtpoise_plan_moves{{{BALANCER}}})",
            "none",
            (Step(None, "blue"),),
        ),
        _number(
            "Unsolved",
            "Whether there is a problem that the plan does not solve.",
            f"max(virtpoise_plan_unsolved{{{BALANCER}}})",
            "none",
            BAD_IF_ANY,
            (Value(0, "no", "green"), Value(1, "yes", "red")),
        ),
        _number(
            "Domains twice",
            "Domains seen running on more than one host in the newest cycle. Right after a migration this is harmless.",
            f"max(virtpoise_domain_duplicates{{{BALANCER}}})",
            "none",
            (Step(None, "green"), Step(1, "yellow")),
        ),
        _number(
            "Domains vanished",
            "Domains that ran on neither host after their migration, and have not been seen since.",
            f"max(virtpoise_domain_vanished{{{BALANCER}}})",
            "none",
            BAD_IF_ANY,
        ),
    ),
)

CYCLES = Row(
    "Cycles",
    (
        TimeSeries(
            title="Cycles by result",
            description="Results of cycles: idle, recommended, moved, waiting, failed.",
            queries=(
                Query(
                    f"sum by (result) (increase(virtpoise_cycles_total{{{BALANCER}}}[$__rate_interval]))",
                    "{{result}}",
                    min_step=EVENTS_STEP,
                ),
            ),
            unit="none",
            minimum=0,
            stacked=True,
            styles=RESULTS,
        ),
        TimeSeries(
            title="Duration of a cycle",
            description="Median and 99th percentile of the duration.",
            queries=(
                Query(_quantile(0.5, "cycle_duration_seconds"), "half"),
                Query(_quantile(0.99, "cycle_duration_seconds"), "99 of 100"),
            ),
            unit="s",
            minimum=0,
        ),
        TimeSeries(
            title="Cycles that ran late",
            description="Cycles that took longer than the interval.",
            queries=(
                Query(
                    f"sum(increase(virtpoise_cycle_overruns_total{{{BALANCER}}}[$__rate_interval]))",
                    "late",
                    min_step=EVENTS_STEP,
                ),
            ),
            unit="none",
            minimum=0,
            bars=True,
            height=6,
        ),
        TimeSeries(
            title="Age of the samples over time",
            description="Age of the newest sample of any host that the balancer has seen. "
            "It grows while Prometheus does not answer or has no samples.",
            queries=(Query(f"max(virtpoise_snapshot_age_seconds{{{BALANCER}}})", "age"),),
            unit="s",
            minimum=0,
            height=6,
        ),
    ),
)

DECISIONS = Row(
    "Decisions",
    (
        StateTimeline(
            title="What keeps the balancer from acting",
            description="The brake, by what pulled it; the blackout windows of the configuration; an order to pause. "
            "A person can apply plans in a blackout window and while the brake is on, but not while it is paused.",
            queries=(
                Query(f"max by (cause) (virtpoise_brake{{{BALANCER}}})", "brake: {{cause}}"),
                Query(f"max by (window) (virtpoise_blackout{{{BALANCER}}})", "blackout: {{window}}"),
                Query(f"max(virtpoise_paused{{{BALANCER}}})", "paused"),
            ),
            unit="none",
            values=(Value(0, "no", "green"), Value(1, "yes", "orange")),
            width=24,
            height=7,
        ),
        TimeSeries(
            title="Load as the balancer sees it",
            description="CPU load of each host as the balancer saw it, and the threshold.",
            queries=(
                Query(f"max by (host) (virtpoise_host_cpu_load_ratio{{{BY_HOST}}})", "{{host}}"),
                Query(THRESHOLD, "threshold"),
            ),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(THRESHOLD_LINE,),
        ),
        TimeSeries(
            title="Consecutive samples over the threshold",
            description="Consecutive samples of each host at or above its threshold, in CPU, memory or its uplink. "
            "At `consecutive` of them the host counts as overloaded.",
            queries=(Query(f"max by (host) (virtpoise_overload_consecutive{{{BY_HOST}}})", "{{host}}"),),
            unit="none",
            decimals=0,
            minimum=0,
        ),
        StateTimeline(
            title="State of each host",
            description="As the balancer sees it. Only active hosts take part in balancing.",
            queries=(Query(promql.host_state(BY_HOST), "{{host}}"),),
            unit="none",
            values=STATES,
        ),
        TimeSeries(
            title="Back-off",
            description="How long each host is still in back-off after an attempt that did not solve its problem. "
            "One sample below the threshold ends it.",
            queries=(Query(f"max by (host) (virtpoise_penalty_seconds{{{BY_HOST}}})", "{{host}}"),),
            unit="s",
            minimum=0,
        ),
        TimeSeries(
            title="Refusals by reason",
            description="Why domains were not migrated and hosts were not destinations, in the newest plan.",
            queries=(Query(f"sum by (reason) (virtpoise_refusals{{{BALANCER}}})", "{{reason}}"),),
            unit="none",
            decimals=0,
            minimum=0,
            stacked=True,
        ),
        TimeSeries(
            title="Moves in the plan over time",
            description="Migrations in the newest plan, and 1 while there is a problem that it does not solve.",
            queries=(
                Query(f"max(virtpoise_plan_moves{{{BALANCER}}})", "moves"),
                Query(f"max(virtpoise_plan_unsolved{{{BALANCER}}})", "unsolved"),
            ),
            unit="none",
            decimals=0,
            minimum=0,
            styles=(Style("^moves$", "blue"), Style("^unsolved$", "red", dashed=True)),
        ),
    ),
)

MIGRATIONS = Row(
    "Migrations",
    (
        TimeSeries(
            title="Migrations in flight",
            description="Running live migrations.",
            queries=(Query(f"max(virtpoise_migrations_in_flight{{{BALANCER}}})", "in flight"),),
            unit="none",
            decimals=0,
            minimum=0,
            width=8,
        ),
        TimeSeries(
            title="Oldest migration in flight",
            description="How long the oldest running migration has taken so far. By default a migration is aborted "
            "after 10 minutes.",
            queries=(Query(f"max(virtpoise_migration_oldest_seconds{{{BALANCER}}})", "oldest"),),
            unit="s",
            minimum=0,
            width=8,
        ),
        TimeSeries(
            title="Migrations by result",
            description="Migrations that ended. Skipped: the situation had changed before the start. "
            "Failed: the domain stayed on its source.",
            queries=(Query(ended_in_steps("result"), "{{result}}", min_step=EVENTS_STEP),),
            unit="none",
            minimum=0,
            bars=True,
            stacked=True,
            styles=RESULTS,
            width=8,
        ),
        _distribution("Duration of migrations", "Histogram of the duration over time.", "migration_duration_seconds"),
        _distribution(
            "Downtime of migrations",
            "Downtime of domains at the end of their migration, as reported by libvirt.",
            "migration_downtime_seconds",
        ),
        Table(
            title="Migrations by pair of hosts",
            description="Migrations that ended in this time range.",
            queries=(Query(f"{ended_in_range('source, destination, result')} > 0", instant=True, format="table"),),
            unit="none",
            decimals=0,
            columns={"source": "From", "destination": "To", "result": "Result", "Value": "Migrations"},
            column_units={"Migrations": "none"},
            width=24,
        ),
    ),
)

BALANCER_DASHBOARD = Dashboard(
    uid="virtpoise-balancer",
    title="Virtpoise / Balancer",
    description="Cycles, decisions, refusals, back-off, migrations, and what keeps the balancer from acting.",
    variables=(
        promql.BALANCER_VARIABLE,
        promql.GROUP_VARIABLE,
        Variable(
            name="host", label="Host", query='label_values(virtpoise_host_cpu_load_ratio{job=~"$balancer"}, host)'
        ),
    ),
    annotations=promql.ANNOTATIONS,
    rows=(NOW, CYCLES, DECISIONS, MIGRATIONS),
)
