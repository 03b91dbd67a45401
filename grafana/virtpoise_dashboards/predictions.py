"""The dashboard of predictions and measurements for both hosts of migrations."""

from __future__ import annotations

from virtpoise_dashboards import promql
from virtpoise_dashboards.fleet import THRESHOLD_LINE
from virtpoise_dashboards.model import (
    Dashboard,
    Heatmap,
    Query,
    Row,
    Stat,
    Step,
    Style,
    Table,
    TimeSeries,
    Variable,
)
from virtpoise_dashboards.promql import BALANCER, EVENTS_STEP, THRESHOLD

SOURCE_COLOR = "orange"
DESTINATION_COLOR = "green"
COVERAGE = (Step(None, "red"), Step(0.7, "yellow"), Step(0.85, "green"))


def _load(host: str) -> str:
    return f'max by (host) (virtpoise_host_cpu_load_ratio{{{BALANCER}, host=~"{host}"}})'


def _predicted(host: str, role: str, bound: str = "") -> str:
    return f'max by (host) (virtpoise_prediction{bound}_ratio{{{BALANCER}, host=~"{host}", role="{role}", resource="cpu"}})'


def _prediction_queries(host: str, role: str, name: str) -> tuple[Query, ...]:
    return (
        Query(_predicted(host, role), f"{name} predicted"),
        Query(_predicted(host, role, "_lower"), f"{name} lower"),
        Query(_predicted(host, role, "_upper"), f"{name} upper"),
    )


def _prediction_styles(name: str, color: str) -> tuple[Style, ...]:
    return (
        Style(f"^{name} predicted$", color, dashed=True),
        Style(f"^{name} lower$", color, width=0, in_legend=False),
        Style(f"^{name} upper$", color, width=0, band_to=f"{name} lower", in_legend=False),
    )


def _error(hosts: str) -> str:
    """Measured minus predicted, by host and role, while the prediction stands."""
    return (
        f'max by (host) (virtpoise_host_cpu_load_ratio{{{BALANCER}, host=~"{hosts}"}}) - on (host) group_right ()'
        f' max by (host, role) (virtpoise_prediction_ratio{{{BALANCER}, host=~"{hosts}", resource="cpu"}})'
    )


def _pair_error(host: str, role: str) -> str:
    """The mean absolute error on this end, while both ends of the chosen pair had a prediction."""
    return (
        f"avg(avg_over_time((abs({_load(host)} - {_predicted(host, role)})"
        f" and on () ({_predicted('$source', 'source')} and on () {_predicted('$destination', 'destination')}))"
        "[$__range:$__interval]))"
    )


PAIR = Row(
    "A pair of hosts",
    (
        TimeSeries(
            title="CPU load of $source and $destination, measured and predicted",
            description="Full lines: the load that the balancer saw. Dashed lines, from the moment of a decision "
            "until its outcome is "
            "measured: the load predicted for the source and for the destination, with the interval that should hold "
            "9 of 10 outcomes.",
            queries=(
                Query(_load("$source"), "source measured"),
                Query(_load("$destination"), "destination measured"),
                *_prediction_queries("$source", "source", "source"),
                *_prediction_queries("$destination", "destination", "destination"),
                Query(THRESHOLD, "threshold"),
            ),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(
                Style("^source measured$", SOURCE_COLOR),
                Style("^destination measured$", DESTINATION_COLOR),
                *_prediction_styles("source", SOURCE_COLOR),
                *_prediction_styles("destination", DESTINATION_COLOR),
                THRESHOLD_LINE,
            ),
            width=24,
            height=11,
        ),
        Stat(
            title="Mean error on the source",
            description="Mean distance of the load of $source from its prediction, while this pair had one. It "
            "includes the time in which "
            "the domain was still on its way.",
            queries=(Query(_pair_error("$source", "source"), "$source", instant=True),),
            unit="percentunit",
            decimals=1,
            width=12,
        ),
        Stat(
            title="Mean error on the destination",
            description="Mean absolute error of the load of $destination, while this pair had a prediction.",
            queries=(Query(_pair_error("$destination", "destination"), "$destination", instant=True),),
            unit="percentunit",
            decimals=1,
            width=12,
        ),
    ),
)

EACH_HOST = Row(
    "Each host",
    (
        TimeSeries(
            title="$host",
            description="The host's load, and what was predicted for it as a source and as a destination.",
            queries=(
                Query(_load("$host"), "measured"),
                *_prediction_queries("$host", "source", "as source"),
                *_prediction_queries("$host", "destination", "as destination"),
                Query(THRESHOLD, "threshold"),
            ),
            unit="percentunit",
            minimum=0,
            maximum=1,
            styles=(
                Style("^measured$", "blue"),
                *_prediction_styles("as source", SOURCE_COLOR),
                *_prediction_styles("as destination", DESTINATION_COLOR),
                THRESHOLD_LINE,
            ),
            repeat="host",
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        TimeSeries(
            title="Measured minus predicted",
            description="For each host with a prediction: above zero it carries more than predicted. While the domain "
            "is still on its way "
            "the source shows above and the destination below zero.",
            queries=(Query(_error("$host"), "{{host}} as {{role}}"),),
            unit="percentunit",
        ),
        Heatmap(
            title="Errors of measured predictions",
            description="Histogram of the prediction errors over time.",
            queries=(
                Query(
                    f"sum by (le) (increase(virtpoise_prediction_error_ratio_bucket{{{BALANCER}}}[$__rate_interval]))",
                    "{{le}}",
                    format="heatmap",
                    min_step=EVENTS_STEP,
                ),
            ),
            unit="percentunit",
        ),
        Stat(
            title="Median error",
            description="Half of the measurements in this time range were closer to their prediction.",
            queries=(
                Query(
                    "histogram_quantile(0.5, sum by (le, role)"
                    f" (increase(virtpoise_prediction_error_ratio_bucket{{{BALANCER}}}[$__range])))",
                    "{{role}}",
                    instant=True,
                ),
            ),
            unit="percentunit",
            decimals=1,
            width=6,
        ),
        Stat(
            title="90th percentile of the error",
            description="Nine of ten measurements in this time range were closer to their prediction.",
            queries=(
                Query(
                    "histogram_quantile(0.9, sum by (le, role)"
                    f" (increase(virtpoise_prediction_error_ratio_bucket{{{BALANCER}}}[$__range])))",
                    "{{role}}",
                    instant=True,
                ),
            ),
            unit="percentunit",
            decimals=1,
            width=6,
        ),
        Stat(
            title="Within the interval",
            description="Share of the measurements in this time range that were within the predicted interval. The "
            "target is 90 %.",
            queries=(
                Query(
                    f"sum by (role) (increase(virtpoise_prediction_within_interval_total{{{BALANCER}}}[$__range]))"
                    f" / (sum by (role) (increase(virtpoise_predictions_measured_total{{{BALANCER}}}[$__range])) > 0)",
                    "{{role}}",
                    instant=True,
                ),
            ),
            unit="percentunit",
            decimals=0,
            minimum=0,
            maximum=1,
            steps=COVERAGE,
            width=6,
        ),
        Stat(
            title="Measured predictions",
            description="Predictions of this time range that have been measured.",
            queries=(
                Query(
                    f"sum by (role) (increase(virtpoise_predictions_measured_total{{{BALANCER}}}[$__range]))",
                    "{{role}}",
                    instant=True,
                ),
            ),
            unit="none",
            decimals=0,
            width=6,
        ),
        TimeSeries(
            title="Within the interval, since the balancer's start",
            description="Share of all measurements since the balancer's start that were within the predicted interval. "
            "It should settle near 90 %.",
            queries=(
                Query(
                    f"sum by (role) (virtpoise_prediction_within_interval_total{{{BALANCER}}})"
                    f" / (sum by (role) (virtpoise_predictions_measured_total{{{BALANCER}}}) > 0)",
                    "{{role}}",
                ),
            ),
            unit="percentunit",
            minimum=0,
            maximum=1,
            width=12,
            height=8,
        ),
        Table(
            title="Mean error by pair of hosts",
            description="Mean absolute error of the predictions since the balancer's start.",
            queries=(
                Query(
                    f"sum by (source, destination, role) (virtpoise_prediction_pair_error_ratio_sum{{{BALANCER}}})"
                    f" / sum by (source, destination, role) (virtpoise_prediction_pair_error_ratio_count{{{BALANCER}}})",
                    instant=True,
                    format="table",
                ),
            ),
            unit="none",
            columns={"source": "From", "destination": "To", "role": "Measured on the", "Value": "Mean error"},
            column_units={"Mean error": "percentunit"},
            width=12,
            height=8,
        ),
    ),
)


def _end(role: str) -> Variable:
    return Variable(
        name=role,
        label=role.capitalize(),
        query=f'label_values(virtpoise_prediction_ratio{{job=~"$balancer", role="{role}"}}, host)',
        multi=False,
    )


PREDICTIONS = Dashboard(
    uid="virtpoise-predictions",
    title="Virtpoise / Predictions and actuals",
    description="For each migration the load of both hosts with its prediction, and the errors of predictions.",
    variables=(
        promql.BALANCER_VARIABLE,
        promql.GROUP_VARIABLE,
        _end("source"),
        _end("destination"),
        Variable(
            name="host", label="Host", query='label_values(virtpoise_host_cpu_load_ratio{job=~"$balancer"}, host)'
        ),
    ),
    annotations=promql.ANNOTATIONS,
    rows=(PAIR, EACH_HOST, ERRORS),
)
