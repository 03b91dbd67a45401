"""The campaign's lab floor: the balancer as its user runs it, on real libvirt hosts that fail, and an oracle outside
of it.
"""
