"""``valuestream plan``: computes what a load needs from measured unit costs, before anything is bought."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

import click

from stream.commands.plan.capacity import Capacity, Load, capacity
from stream.commands.plan.unit_costs import UnitCost, costs_of, read_unit_costs
from stream.errors import ConfigError
from stream.settings import Settings

__all__ = ["plan"]

_HOURS_PER_MONTH: Final = 365.25 * 24 / 12
_MONTH_S: Final = 30 * 86_400
_UNMEASURED: Final = "not measured"
_AT_LEAST_ONE: Final = click.IntRange(min=1)
_ABOVE_ZERO: Final = click.FloatRange(min=0, min_open=True)
_FROM_ZERO: Final = click.FloatRange(min=0)


def _setting_option(name: str, kind: click.ParamType) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for a setting of the workers, with the default of that setting."""
    default = Settings.model_fields[name].default
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, type=kind, default=default, show_default=True, help="As set for the workers.")


@click.command()
@click.option("--users", type=_AT_LEAST_ONE, required=True, help="Users that the state holds.")
@click.option("--events-per-second", "events_per_s", type=_ABOVE_ZERO, required=True, help="At the busiest hour.")
@click.option("--events-per-user", type=_ABOVE_ZERO, help="Mean in 30 days. Default: as many as that rate makes.")
@click.option("--active-users", type=_ABOVE_ZERO, help="Users who send at the same time. Default: all.")
@click.option("--event-bytes", type=_ABOVE_ZERO, default=300.0, show_default=True, help="Mean size of an event.")
@click.option("--user-id-bytes", type=_ABOVE_ZERO, default=36.0, show_default=True, help="36 is a UUID.")
@_setting_option("refresh_interval_s", _FROM_ZERO)
@_setting_option("checkpoint_interval_s", _ABOVE_ZERO)
@_setting_option("session_timeout_s", _ABOVE_ZERO)
@_setting_option("standby_replicas", click.IntRange(min=0))
@click.option("--replication", type=_AT_LEAST_ONE, default=3, show_default=True, help="Copies of each topic.")
@click.option("--retention-days", type=_ABOVE_ZERO, default=7.0, show_default=True, help="Of the events topic.")
@click.option(
    "--utilisation",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    default=0.5,
    show_default=True,
    help="Share of a core that may be used. At 0.5 a worker catches up in the time that it was away.",
)
@click.option("--gpus", type=click.IntRange(min=0), default=0, help="GPUs for the model. 0 runs it on cores.")
@click.option("--price-core-hour", type=_FROM_ZERO, help="The plan shows the cost of everything with a price.")
@click.option("--price-gpu-hour", type=_FROM_ZERO)
@click.option("--price-gb-month", type=_FROM_ZERO, help="Of disk: local stores, and Kafka's copies of the topics.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. null means that nobody has measured it.")
def plan(
    events_per_user: float | None,
    active_users: float | None,
    price_core_hour: float | None,
    price_gpu_hour: float | None,
    price_gb_month: float | None,
    as_json: bool,
    **load_options: Any,
) -> None:
    """Partitions, workers, memory, disk, GPUs and monthly cost for so many users and events."""
    load = Load(
        **load_options,
        events_per_user=events_per_user or load_options["events_per_s"] * _MONTH_S / load_options["users"],
        active_users=active_users or load_options["users"],
    )
    if load.active_users > load.users:
        raise ConfigError(
            f"active users are {load.active_users:,.0f}, expected at most {load.users:,}, as there are users;"
            " lower --active-users"
        )
    unit_costs = read_unit_costs()
    needed = capacity(load, costs_of(unit_costs))
    prices = {"cores": price_core_hour, "gpus": price_gpu_hour, "disk": price_gb_month}
    cost = {name: _monthly(needed)[name] * price for name, price in prices.items() if price is not None}
    if as_json:
        click.echo(json.dumps(_machine_readable(load, needed, cost, unit_costs), indent=1))
    else:
        click.echo("\n".join(_lines(load, needed, cost, unit_costs)))


def _monthly(needed: Capacity) -> dict[str, float]:
    """What a month uses of everything that can have a price: hours of cores and of GPUs, and GB of disk."""
    return {
        "cores": needed.cores * _HOURS_PER_MONTH,
        "gpus": needed.gpus * _HOURS_PER_MONTH,
        "disk": (needed.store_bytes + needed.topics_bytes) / 1e9,
    }


def _not_measured(unit_costs: dict[str, UnitCost], load: Load) -> dict[str, UnitCost]:
    """The unit costs that this load depends on and that nobody has measured."""
    unused = {"inference_s"} if load.gpus else {"gpu_s"}
    return {name: unit_cost for name, unit_cost in unit_costs.items() if unit_cost.value is None and name not in unused}


def _machine_readable(
    load: Load, needed: Capacity, cost: dict[str, float], unit_costs: dict[str, UnitCost]
) -> dict[str, Any]:
    return {
        "load": asdict(load),
        "needs": {name: _or_none(value) for name, value in asdict(needed).items()},
        "cost_per_month": {name: _or_none(value) for name, value in cost.items()},
        "not_measured": {name: unit_cost.command for name, unit_cost in _not_measured(unit_costs, load).items()},
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _lines(load: Load, needed: Capacity, cost: dict[str, float], unit_costs: dict[str, UnitCost]) -> list[str]:
    lines = [
        f"{load.users:,} users with {load.events_per_user:,.4g} events in 30 days, {load.events_per_s:,.0f} events/s,"
        f" scored every {load.refresh_interval_s:g} s at most, cores used to {load.utilisation:.0%}",
        "",
        *(f"{name:<20}{value:>22}   {note}".rstrip() for name, value, note in _rows(load, needed)),
    ]
    lines += [f"{'cost of ' + name:<20}{_money(amount):>22}   a month" for name, amount in cost.items()]
    missing = _not_measured(unit_costs, load)
    if missing:
        lines += ["", "not measured, and what measures it:"]
        lines += [f"  {name:<22}{unit_cost.command}" for name, unit_cost in missing.items()]
    return lines


def _rows(load: Load, needed: Capacity) -> list[tuple[str, str, str]]:
    return [
        ("partitions", _count(needed.partitions), "two for each worker: their number is for ever"),
        (
            "workers",
            _count(needed.workers),
            f"events that one takes at most: {_rate(needed.events_per_s_max_per_worker)}",
        ),
        ("cores", _count(needed.cores), "of the workers; those of the brokers come on top"),
        ("GPUs", *_gpus(load, needed)),
        ("memory", _size(needed.memory_bytes), f"of each worker: {_size(needed.memory_bytes_per_worker)}"),
        ("local disk", _size(needed.store_bytes), f"{1 + load.standby_replicas} copies of every user's value"),
        ("topics", _size(needed.topics_bytes), f"{load.replication} copies, with events of {load.retention_days:g} d"),
        ("scores", _rate(needed.scores_per_s), "those of silent users included"),
        ("Kafka writes", _size(needed.kafka_written_bytes_per_s, "/s"), "all topics, copies included"),
        ("  changelog", _size(needed.changelog_bytes_per_s, "/s"), _values(needed)),
        ("Kafka reads", _size(needed.kafka_read_bytes_per_s, "/s"), "events, and the changelog for standbys"),
        ("recovery", _seconds(needed.recovery_from_disk_s), "a worker that died, from its local disk"),
        ("  without its disk", _seconds(needed.recovery_from_changelog_s), "from the changelog"),
        ("  catching up", f"{needed.catch_up_s:.2g} s", "for each second without a worker"),
    ]


def _gpus(load: Load, needed: Capacity) -> tuple[str, str]:
    if not load.gpus:
        return "0", "the model runs on the cores"
    count = f"{_UNMEASURED} on GPU" if math.isnan(needed.gpus) else _count(needed.gpus)
    return count, f"there are {load.gpus}"


def _values(needed: Capacity) -> str:
    return f"{_rate(needed.changed_users_per_s)} of {_size(needed.value_bytes)}"


def _count(value: float) -> str:
    return _UNMEASURED if math.isnan(value) else f"{value:,.0f}"


def _rate(value: float) -> str:
    return _UNMEASURED if math.isnan(value) else f"{value:,.0f} /s"


def _money(value: float) -> str:
    return _UNMEASURED if math.isnan(value) else f"{value:,.2f}"


def _seconds(value: float) -> str:
    return _UNMEASURED if math.isnan(value) else f"{value:,.1f} s"


def _size(n_bytes: float, per: str = "") -> str:
    """A size in decimal units.

    >>> _size(999), _size(1_500), _size(2.5e9, "/s"), _size(4e13), _size(math.nan)
    ('999 B', '1.5 kB', '2.5 GB/s', '40 TB', 'not measured')
    """
    if math.isnan(n_bytes):
        return _UNMEASURED
    power = min(4, max(0, int(math.log10(max(n_bytes, 1)) // 3)))
    return f"{n_bytes / 1000**power:,.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}{per}"
