"""The campaign's model floor: the balancer's own code on virtual time, among hosts that are state machines and that
fail.
"""
