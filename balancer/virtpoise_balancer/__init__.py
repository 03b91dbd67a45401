"""Balances libvirt/KVM hosts: monitor (Prometheus), analyse, plan, execute (live migration), over a knowledge store."""

__version__ = "0.1.0"
