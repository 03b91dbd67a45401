"""Balances libvirt/KVM hosts: monitor (Prometheus), analyse, plan, execute (live migration), over a knowledge store."""
